//! A real server on a free port over a temporary folder, asked over every face.

mod authorisation;
mod bulk;
mod datasets;
mod life;
mod refusals;
mod rows;
mod support;
mod versions;
