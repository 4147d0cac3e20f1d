//! Kill -9, at every named crash point and at random, over one folder.
