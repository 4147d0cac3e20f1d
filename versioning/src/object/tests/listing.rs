//! Listings and the object map against a plain sorted map.

use std::collections::BTreeSet;

use super::*;

/// Short paths over few letters, so that prefixes, lengths and delimiters meet.
fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec("[ab_é]{1,3}", 1..4).prop_map(|pieces| pieces.join("/"))
}

/// What a listing should give: object paths, and prefixes with a mark.
fn naive(paths: &BTreeSet<String>, query: &ObjectQuery) -> Vec<(String, bool)> {
    let mut items: Vec<(String, bool)> = Vec::new();
    for path in paths.iter().filter(|path| path.starts_with(&query.prefix)) {
        let item = query.common(path).map_or((path.clone(), false), |common| (common.to_owned(), true));
        if items.last() != Some(&item) {
            items.push(item);
        }
    }
    items
}

async fn listed(fixture: &Fixture, query: &ObjectQuery) -> Vec<(String, bool)> {
    let (head, mut query, mut items) = (fixture.head().await, query.clone(), Vec::new());
    loop {
        let page = fixture.repository.list_objects(&head, &query).await.unwrap();
        assert!(page.items.len() <= query.limit && (page.next.is_none() || page.items.len() == query.limit));
        items.extend(page.items.into_iter().map(|item| match item {
            ObjectItem::Object(info) => (info.path, false),
            ObjectItem::Prefix(prefix) => (prefix, true),
        }));
        match page.next {
            Some(next) => query.after = Some(next),
            None => return items,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_listing_is_that_of_a_sorted_map_at_any_page_size(
        paths in proptest::collection::btree_set(path(), 0..60),
        prefix in "[ab_é/]{0,3}", delimiter in "(/|_|é|)", limit in 1..9usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let fixture = in_memory().await;
            let entry = fixture.upload("x", b"x").await.unwrap();
            let put = |path: &String| ObjectChange::Put { path: path.clone(), entry: entry.clone(), condition: ObjectCondition::Any };
            fixture.make(paths.iter().map(put).collect()).await.unwrap();
            let query = ObjectQuery { prefix, delimiter, limit, after: None };
            prop_assert_eq!(listed(&fixture, &query).await, naive(&paths, &query));
            // Behind any text, listed or not.
            for after in ["a", "a/b", "é/", "a_b/"] {
                let query = ObjectQuery { after: Some(after.to_owned()), limit: MAX_ALL, ..query.clone() };
                let mut expected = naive(&paths, &query);
                let rolled = query.common(after) == Some(after);
                expected.retain(|(item, is_prefix)| item.as_str() > after || (*is_prefix && !rolled && paths.iter().any(|path| path.starts_with(item.as_str()) && path.as_str() > after)));
                prop_assert_eq!(listed(&fixture, &query).await, expected, "after {:?}", after);
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_series_of_changes_leaves_what_a_plain_map_holds(steps in proptest::collection::vec((0..4u8, 0..6usize, 0..6usize), 1..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let names = ["a", "b", "a/b", "longer/path", "ü", "z"];
            let fixture = in_memory().await;
            let mut model: BTreeMap<&str, String> = BTreeMap::new();
            for (number, (step, one, other)) in steps.into_iter().enumerate() {
                let (one, other, content) = (names[one], names[other], format!("content {number}"));
                let (fits, made) = match step {
                    0 | 1 => {
                        let condition = if step == 0 { ObjectCondition::Any } else { ObjectCondition::Absent };
                        let fits = step == 0 || !model.contains_key(one);
                        if fits {
                            model.insert(one, content.clone());
                        }
                        (fits, fixture.put_if(one, content.as_bytes(), condition).await)
                    }
                    2 => (model.remove(one).is_some(), fixture.make(vec![delete(one)]).await),
                    _ => {
                        let fits = model.contains_key(one) && !model.contains_key(other);
                        if let Some(content) = fits.then(|| model.remove(one)).flatten() {
                            model.insert(other, content);
                        }
                        (fits, fixture.make(vec![rename(one, other)]).await)
                    }
                };
                prop_assert_eq!(made.is_ok(), fits);
            }
            let paths: Vec<_> = listed(&fixture, &ObjectQuery::default()).await.into_iter().map(|(path, _)| path).collect();
            prop_assert_eq!(&paths, &model.keys().map(|path| (*path).to_owned()).collect::<Vec<_>>());
            for (path, content) in model {
                prop_assert_eq!(fixture.read(path, None).await.unwrap(), content);
            }
            Ok(())
        })?;
    }
}

const MAX_ALL: usize = 1000;

#[tokio::test]
async fn long_runs_are_read_on_and_passed_over() {
    let fixture = in_memory().await;
    let entry = fixture.upload("x", b"x").await.unwrap();
    let mut paths: BTreeSet<String> = (0..3000).map(|number| format!("many/{number:05}")).collect();
    paths.extend(["a", "many", "many/", "zz/1"].into_iter().filter(|path| !path.ends_with('/')).map(str::to_owned));
    let put = |path: &String| ObjectChange::Put { path: path.clone(), entry: entry.clone(), condition: ObjectCondition::Any };
    fixture.make(paths.iter().map(put).collect()).await.unwrap();
    for (delimiter, limit) in [("", 700), ("/", 2), ("", 100_000)] {
        let query = ObjectQuery { delimiter: delimiter.to_owned(), limit: limit.min(crate::MAX_PAGE), ..ObjectQuery::default() };
        assert_eq!(listed(&fixture, &query).await, naive(&paths, &query));
    }
    let none = ObjectQuery { limit: 0, ..ObjectQuery::default() };
    assert!(fixture.repository.list_objects(&fixture.head().await, &none).await.is_err());
    assert_eq!(listed(&fixture, &ObjectQuery::prefix("x".repeat(2000))).await, []);
}
