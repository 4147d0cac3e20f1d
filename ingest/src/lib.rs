//! Sources, row checks, the dual write, offsets and quarantine.
