//! A walk over the rows of one generation, by ranges of tokens.
//!
//! There is no index of a generation's entities: the walk asks for every partition's row of it. It begins with the whole ring as one range, page by page;
//! where the cluster gives a range up (Cassandra does where one page would pass over 100,000 tombstones, as those of generations that were dropped), it goes
//! over that range again in sixteenths, and takes larger ones again as long as they are answered.

use anabranch_core::Generation;
use bytes::{Buf, BufMut, Bytes};
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::response::query_result::QueryRowsResult;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::statement::prepared::PreparedStatement;

use super::keys::column;
use super::link::{Attempt, Link, trouble};
use crate::call::Call;
use crate::{Error, Result};

/// The width of the whole ring, and that below which ranges are not cut.
const WHOLE: u8 = 64;
const LEAST: u8 = 32;
const CUT: u8 = 4;

/// Where a walk stands: in which range, and on which page of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Walk {
    start: i64,
    /// The range has 2 to this power of tokens, or what is left of the ring.
    width: u8,
    page: Bytes,
}

impl Walk {
    pub(super) const fn new() -> Self {
        Self { start: i64::MIN, width: WHOLE, page: Bytes::new() }
    }

    /// The last token of the range.
    fn end(&self) -> i64 {
        let end = i128::from(self.start) + (1_i128 << self.width) - 1;
        i64::try_from(end).unwrap_or(i64::MAX)
    }

    /// Where the walk goes on behind its range.
    fn behind(&self) -> Option<Self> {
        Some(Self { start: self.end().checked_add(1)?, width: (self.width + 1).min(WHOLE), page: Bytes::new() })
    }

    fn narrower(&self) -> Option<Self> {
        (self.width >= LEAST + CUT).then(|| Self { start: self.start, width: self.width - CUT, page: Bytes::new() })
    }

    pub(super) fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(9 + self.page.len());
        bytes.put_i64(self.start);
        bytes.put_u8(self.width);
        bytes.put_slice(&self.page);
        bytes.into()
    }

    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self> {
        let corrupt = || Error::Corrupt { what: "a cursor of the online store on CQL", reason: "it was not given by it".to_owned() };
        let start = bytes.try_get_i64().map_err(|_| corrupt())?;
        let width = bytes.try_get_u8().ok().filter(|width| *width <= WHOLE).ok_or_else(corrupt)?;
        Ok(Self { start, width, page: Bytes::copy_from_slice(bytes) })
    }

    /// The next page, and where to go on. The statement takes the ends of a range and a generation.
    pub(super) async fn step(
        mut self,
        link: &Link,
        statement: &PreparedStatement,
        generation: Generation,
        limit: usize,
        call: &Call,
    ) -> Attempt<(QueryRowsResult, Option<Self>)> {
        let mut statement = statement.clone();
        statement.set_page_size(limit as i32);
        loop {
            let page = if self.page.is_empty() { PagingState::start() } else { PagingState::new_from_raw_bytes(&self.page[..]) };
            let values = (self.start, self.end(), column(generation));
            let (result, paging) = match link.session.execute_single_page(&statement, values, page).await {
                Ok(answered) => answered,
                Err(error) => match self.narrower().filter(|_| is_given_up(&error)) {
                    Some(narrower) => {
                        self = narrower;
                        continue;
                    }
                    None => return Err(trouble(error, call)),
                },
            };
            let rows = result.into_rows_result().map_err(|error| call.failed(error))?;
            let next = match paging {
                PagingStateResponse::HasMorePages { state } => {
                    let page = state.as_bytes_slice().map_or_else(Bytes::new, |page| Bytes::copy_from_slice(page));
                    Some(Self { page, ..self })
                }
                PagingStateResponse::NoMorePages => self.behind(),
            };
            return Ok((rows, next));
        }
    }
}

/// Whether the cluster began to read a range and did not come to its end.
fn is_given_up(error: &ExecutionError) -> bool {
    let ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, _)) = error else { return false };
    matches!(error, DbError::ReadFailure { .. } | DbError::ReadTimeout { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_and_others_are_refused() {
        let walk = Walk { start: -7, width: 40, page: Bytes::from_static(b"page") };
        assert_eq!(Walk::parse(&walk.to_bytes()).unwrap(), walk);
        for wrong in [&b""[..], &[0; 8], &[65; 9]] {
            assert!(matches!(Walk::parse(wrong).unwrap_err(), Error::Corrupt { .. }));
        }
    }

    #[test]
    fn ranges_of_any_width_cover_the_ring_once() {
        assert_eq!((Walk::new().start, Walk::new().end(), Walk::new().behind()), (i64::MIN, i64::MAX, None));
        let (mut walk, mut ranges) = (Walk { width: 58, ..Walk::new() }, 0);
        while let Some(next) = walk.behind() {
            assert_eq!(next.start, walk.end() + 1);
            (walk, ranges) = (next, ranges + 1);
            if ranges < 10 && ranges % 3 == 0 {
                walk = walk.narrower().unwrap();
            }
        }
        assert_eq!(walk.end(), i64::MAX);
        assert!(ranges > 3);
        assert_eq!(Walk { width: LEAST + 1, ..Walk::new() }.narrower(), None);
    }
}
