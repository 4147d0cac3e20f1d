//! Ingest with its stores: the dual write, barriers, loads, the law of the two stores, and kill -9 at every step.

mod barrier;
mod kill;
mod law;
mod load;
mod power;
mod push;
mod trouble;
mod world;
