//! Latest values: the packed row, the embedded store and its contract.
