//! The database of a bucket: which objects exist, in which order, and where their bytes are.
//!
//! Keys are BLOBs: they sort by their bytes, as the service sorts them. A page of a listing is a range of the
//! primary key, which seeks past each prefix that it folds. Listings need no more than `objects`, whose rows are
//! small, so that a page of the database holds thirty; what only HEAD and GET need is in `contents`.

use rusqlite::{Connection, OptionalExtension, Row};

use super::disk::{QueryResult, message};
use super::record::{self, Content, Facts, MAX_PARTS, Numbers, PartFile, Tag, is_part_name};
use crate::database::error::Error as Failure;
use crate::database::schema::Schema;
use crate::store::error::Error;
use crate::store::object_store::{ObjectHeaders, ObjectKey};

pub const SCHEMA: Schema = Schema {
    // "ossv"
    application_id: 0x6f73_7376,
    migrations: &["
CREATE TABLE objects (
    key BLOB NOT NULL PRIMARY KEY,
    modified INTEGER NOT NULL,
    size INTEGER NOT NULL,
    crc64 INTEGER NOT NULL,
    digest BLOB NOT NULL,
    tag_parts INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    content INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE contents (
    id INTEGER PRIMARY KEY,
    place TEXT NOT NULL,
    headers TEXT NOT NULL
) STRICT;
CREATE TABLE parts (
    content INTEGER NOT NULL,
    number INTEGER NOT NULL,
    size INTEGER NOT NULL,
    crc64 INTEGER NOT NULL,
    digest BLOB NOT NULL,
    tag_parts INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    file TEXT NOT NULL,
    PRIMARY KEY (content, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE uploads (
    key BLOB NOT NULL,
    id TEXT NOT NULL,
    initiated INTEGER NOT NULL,
    content INTEGER NOT NULL,
    PRIMARY KEY (key, id)
) STRICT, WITHOUT ROWID;
"],
};

/// For a row that this store would not write.
pub fn damaged() -> Error {
    Error::Corrupt(message("a damaged row in the bucket's database"))
}

/// For a table whose pages are not in order.
pub fn disordered() -> Error {
    Error::Corrupt(message("the bucket's database is not in order"))
}

/// The values of a row, none where one has another type.
pub fn number(row: &Row<'_>, column: usize) -> Option<i64> {
    row.get_ref(column).ok()?.as_i64().ok()
}

pub fn text<'a>(row: &'a Row<'_>, column: usize) -> Option<&'a str> {
    row.get_ref(column).ok()?.as_str().ok()
}

pub fn bytes<'a>(row: &'a Row<'_>, column: usize) -> Option<&'a [u8]> {
    row.get_ref(column).ok()?.as_blob().ok()
}

pub fn tag(row: &Row<'_>, column: usize) -> Option<Tag> {
    Tag::from_row(bytes(row, column)?, number(row, column + 1)?)
}

/// The columns `modified, size, crc64, digest, tag_parts, kind`.
fn facts(row: &Row<'_>, column: usize) -> Option<Facts> {
    let numbers = Numbers {
        modified: number(row, column)?,
        size: number(row, column + 1)?,
        crc64: number(row, column + 2)?,
        kind: number(row, column + 5)?,
    };
    Facts::from_row(numbers, tag(row, column + 3)?)
}

// ---- one object

/// An object as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub facts: Facts,
    /// The row of its content.
    pub id: i64,
    pub content: Content,
    pub headers: ObjectHeaders,
}

/// # Errors
/// [`Error::Corrupt`] for a row that this store would not write.
pub fn find(connection: &Connection, key: &ObjectKey) -> QueryResult<Option<Found>> {
    let found = connection
        .prepare_cached(
            "SELECT modified, size, crc64, digest, tag_parts, kind, content, place, headers \
             FROM objects LEFT JOIN contents ON contents.id = objects.content WHERE key = ?1",
        )?
        .query_row((key.as_str().as_bytes(),), |row| {
            Ok(facts(row, 0).and_then(|facts| {
                Some(Found {
                    facts,
                    id: number(row, 6)?,
                    content: Content::parse(text(row, 7)?)?,
                    headers: record::read_headers(text(row, 8)?)?,
                })
            }))
        })
        .optional();
    match found.map_err(Failure::from) {
        Ok(None) => Ok(None),
        Ok(Some(Some(found))) => Ok(Some(found)),
        Ok(Some(None)) | Err(Failure::TooLarge) => Err(damaged().into()),
        Err(error) => Err(error.into()),
    }
}

/// The part files of an object, in order; none where its content is not in parts.
///
/// # Errors
/// [`Error::Corrupt`] for rows that this store would not write.
pub fn part_files(connection: &Connection, found: &Found) -> QueryResult<Vec<PartFile>> {
    if !matches!(found.content, Content::Parts(_)) {
        return Ok(Vec::new());
    }
    let mut query = connection
        .prepare_cached("SELECT file, size FROM parts WHERE content = ?1 ORDER BY number")?;
    let mut rows = query.query((found.id,))?;
    let mut parts = Vec::new();
    while let Some(row) = rows.next()? {
        let part = || {
            Some(PartFile {
                file: text(row, 0).filter(|name| is_part_name(name))?.to_string(),
                size: number(row, 1)?.try_into().ok()?,
            })
        };
        if parts.len() == usize::from(MAX_PARTS) {
            return Err(damaged().into());
        }
        parts.push(part().ok_or_else(damaged)?);
    }
    Ok(parts)
}

/// # Errors
/// [`Error::TooLarge`] for a size no object has; the database's.
pub fn put_object(
    connection: &Connection,
    key: &ObjectKey,
    facts: &Facts,
    content: i64,
) -> QueryResult<()> {
    let row = facts
        .to_row()
        .ok_or_else(|| Error::TooLarge(message("more bytes than an object can have")))?;
    connection
        .prepare_cached("INSERT OR REPLACE INTO objects VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
        .execute((
            key.as_str().as_bytes(),
            row.modified,
            row.size,
            row.crc64,
            facts.tag.digest,
            facts.tag.parts,
            row.kind,
            content,
        ))?;
    Ok(())
}

/// Removes the object, if there is one, with the rows of its content. Returns the content if its rows were whole.
pub fn remove_object(connection: &Connection, key: &ObjectKey) -> QueryResult<Option<Content>> {
    let key = key.as_str().as_bytes();
    let found = connection
        .prepare_cached(
            "SELECT content, place \
             FROM objects LEFT JOIN contents ON contents.id = objects.content WHERE key = ?1",
        )?
        .query_row((key,), |row| {
            Ok((number(row, 0), text(row, 1).and_then(Content::parse)))
        })
        .optional()
        .map_err(Failure::from);
    let (id, content) = match found {
        Ok(None) => return Ok(None),
        Ok(Some(found)) => found,
        // A forged row, longer than this store reads.
        Err(Failure::TooLarge) => (None, None),
        Err(error) => return Err(error.into()),
    };
    if let Some(id) = id {
        remove_content(connection, id, content.as_ref())?;
    }
    connection
        .prepare_cached("DELETE FROM objects WHERE key = ?1")?
        .execute((key,))?;
    Ok(content)
}

/// Returns the number of its row.
pub fn add_content(
    connection: &Connection,
    content: &Content,
    headers: &ObjectHeaders,
) -> QueryResult<i64> {
    connection
        .prepare_cached("INSERT INTO contents (place, headers) VALUES (?1, ?2)")?
        .execute((content.to_string(), record::write_headers(headers)))?;
    Ok(connection.last_insert_rowid())
}

pub fn set_headers(
    connection: &Connection,
    content: i64,
    headers: &ObjectHeaders,
) -> QueryResult<()> {
    connection
        .prepare_cached("UPDATE contents SET headers = ?2 WHERE id = ?1")?
        .execute((content, record::write_headers(headers)))?;
    Ok(())
}

/// Removes the rows of a content.
pub fn remove_content(
    connection: &Connection,
    id: i64,
    content: Option<&Content>,
) -> QueryResult<()> {
    connection
        .prepare_cached("DELETE FROM contents WHERE id = ?1")?
        .execute((id,))?;
    if !matches!(content, Some(Content::Empty | Content::File(_))) {
        connection
            .prepare_cached("DELETE FROM parts WHERE content = ?1")?
            .execute((id,))?;
    }
    Ok(())
}

pub fn copy_parts(connection: &Connection, from: i64, to: i64) -> QueryResult<()> {
    connection
        .prepare_cached(
            "INSERT INTO parts SELECT ?2, number, size, crc64, digest, tag_parts, modified, file \
             FROM parts WHERE content = ?1",
        )?
        .execute((from, to))?;
    Ok(())
}

/// How many objects there are. Reads all of them.
pub fn count(connection: &Connection) -> QueryResult<usize> {
    let count = connection.query_row("SELECT count(*) FROM objects", (), |row| {
        row.get::<_, i64>(0)
    })?;
    usize::try_from(count).map_err(|_| damaged().into())
}

/// Whether there are neither objects nor uploads.
pub fn is_empty(connection: &Connection) -> QueryResult<bool> {
    Ok(connection.query_row(
        "SELECT NOT EXISTS (SELECT 1 FROM objects) AND NOT EXISTS (SELECT 1 FROM uploads)",
        (),
        |row| row.get(0),
    )?)
}

// ---- listings

/// What to list. Everything empty lists from the start.
#[derive(Clone, Debug, Default)]
pub struct Query<'a> {
    pub prefix: &'a str,
    /// Empty folds nothing.
    pub delimiter: &'a str,
    pub from: From,
    pub max: usize,
}

/// Where a page begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum From {
    #[default]
    Start,
    /// After this key.
    After(String),
    /// After everything that begins with this.
    Behind(String),
}

pub struct Page {
    pub objects: Vec<(String, Facts)>,
    pub prefixes: Vec<String>,
    /// Where the next page begins; none on the last one.
    pub next: Option<From>,
}

const RANGE: &str = "SELECT key, modified, size, crc64, digest, tag_parts, kind FROM objects \
                     WHERE key >= ?1 AND key < ?2 ORDER BY key";

/// A page, from one state of the database if this is in a transaction.
///
/// Rows that this store would not write are left out.
///
/// # Errors
/// [`Error::Corrupt`] for rows that are not in order.
pub fn list(connection: &Connection, query: &Query<'_>) -> QueryResult<Page> {
    let mut page = Page {
        objects: Vec::new(),
        prefixes: Vec::new(),
        next: None,
    };
    let prefix = query.prefix.as_bytes();
    let mut start = match &query.from {
        From::After(key) if key.as_bytes() >= prefix => [key.as_bytes(), &[0]].concat(),
        From::Behind(lead) if !lead.is_empty() && behind(lead.as_bytes()).as_slice() > prefix => {
            behind(lead.as_bytes())
        }
        _ => prefix.to_vec(),
    };
    let (_, end) = range(query.prefix);
    let mut statement = connection.prepare_cached(RANGE)?;
    let mut last = From::Start;
    let mut skipped = 0;
    'folds: loop {
        let mut rows = statement.query((&start, &end))?;
        while let Some(row) = rows.next()? {
            // Pages that refer to each other in a circle have rows without end, but not in order.
            let key = bytes(row, 0).filter(|key| *key >= start.as_slice());
            let key = key.ok_or_else(disordered)?;
            start.clear();
            start.extend_from_slice(key);
            start.push(0);
            let name = std::str::from_utf8(key)
                .ok()
                .filter(|name| record::is_key(name));
            let Some(name) = name else {
                skipped += 1;
                continue;
            };
            let full = page.objects.len() + page.prefixes.len() == query.max;
            match find_in(&name.as_bytes()[prefix.len()..], query.delimiter.as_bytes()) {
                _ if full => {
                    page.next = Some(last);
                    break 'folds;
                }
                Some(at) => {
                    let fold = &name[..prefix.len() + at + query.delimiter.len()];
                    page.prefixes.push(fold.to_string());
                    last = From::Behind(fold.to_string());
                    start = behind(fold.as_bytes());
                    continue 'folds;
                }
                None => match facts(row, 1) {
                    Some(facts) => {
                        page.objects.push((name.to_string(), facts));
                        last = From::After(name.to_string());
                    }
                    None => skipped += 1,
                },
            }
        }
        break;
    }
    if skipped > 0 {
        log::warn!("{skipped} damaged rows in the bucket's database are not listed");
    }
    Ok(page)
}

/// The bounds of the keys that begin with `prefix`: from, and below.
pub fn range(prefix: &str) -> (Vec<u8>, Vec<u8>) {
    let end = match prefix {
        // No UTF-8 begins with it.
        "" => vec![0xff],
        prefix => behind(prefix.as_bytes()),
    };
    (prefix.as_bytes().to_vec(), end)
}

/// The first byte string that is after all that begin with `lead`, which is UTF-8 and not empty: its last
/// byte is never 0xff.
fn behind(lead: &[u8]) -> Vec<u8> {
    let mut bound = lead.to_vec();
    if let Some(last) = bound.last_mut() {
        *last = last.saturating_add(1);
    }
    bound
}

fn find_in(text: &[u8], delimiter: &[u8]) -> Option<usize> {
    match delimiter {
        [] => None,
        [byte] => text.iter().position(|b| b == byte),
        _ => text.windows(delimiter.len()).position(|w| w == delimiter),
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::QueryError;
    use super::*;

    fn index(keys: &[&[u8]]) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(SCHEMA.migrations[0]).unwrap();
        for key in keys {
            connection
                .execute(
                    "INSERT INTO objects VALUES (?1, 0, 0, 0, zeroblob(16), 0, 0, 0)",
                    (key,),
                )
                .unwrap();
        }
        connection
    }

    fn all(
        index: &Connection,
        prefix: &str,
        delimiter: &str,
        from: From,
        max: usize,
    ) -> Vec<String> {
        let mut names = Vec::new();
        let mut from = from;
        loop {
            let query = Query {
                prefix,
                delimiter,
                from,
                max,
            };
            let page = list(index, &query).unwrap();
            assert!(page.objects.len() + page.prefixes.len() <= max);
            let mut here: Vec<String> = page.objects.into_iter().map(|o| o.0).collect();
            here.extend(page.prefixes);
            here.sort();
            names.extend(here);
            match page.next {
                Some(next) => from = next,
                None => return names,
            }
        }
    }

    #[test]
    fn pages_of_any_size_give_the_same_listing() {
        let keys = [
            "a", "b/", "b/1", "b/2", "b0", "c/x/1", "c/x/2", "c/y", "d", "ü/z",
        ];
        let index = index(&keys.map(str::as_bytes));
        type Case<'a> = (&'a str, &'a str, From, &'a [&'a str]);
        let cases: &[Case] = &[
            ("", "/", From::Start, &["a", "b/", "b0", "c/", "d", "ü/"]),
            ("b/", "/", From::Start, &["b/", "b/1", "b/2"]),
            ("c/", "/", From::Start, &["c/x/", "c/y"]),
            ("c/", "", From::Start, &["c/x/1", "c/x/2", "c/y"]),
            (
                "",
                "/",
                From::After("b/1".into()),
                &["b/", "b0", "c/", "d", "ü/"],
            ),
            ("", "/", From::Behind("b/".into()), &["b0", "c/", "d", "ü/"]),
            (
                "c/",
                "",
                From::After("a".into()),
                &["c/x/1", "c/x/2", "c/y"],
            ),
            ("c/", "", From::After("x".into()), &[]),
            (
                "",
                "x/",
                From::Start,
                &["a", "b/", "b/1", "b/2", "b0", "c/x/", "c/y", "d", "ü/z"],
            ),
            ("zz", "/", From::Start, &[]),
        ];
        for (prefix, delimiter, from, wanted) in cases {
            for max in [1, 2, 3, 1000] {
                assert_eq!(
                    &all(&index, prefix, delimiter, from.clone(), max),
                    wanted,
                    "{prefix:?} {delimiter:?} {from:?} {max}"
                );
            }
        }
    }

    #[test]
    fn rows_that_this_store_would_not_write_are_left_out() {
        let long = [b'k'; 1024];
        let index = index(&[b"a", b"/b", b"", b"c\xff/", b"\xff", &long, b"d/e", b"f"]);
        index
            .execute_batch(
                "UPDATE objects SET kind = 9 WHERE key = X'61';
                 INSERT INTO objects VALUES (X'67', -1, 0, 0, zeroblob(16), 0, 0, 0);
                 INSERT INTO objects VALUES (X'68', 0, 0, 0, zeroblob(15), 0, 0, 0);",
            )
            .unwrap();
        for max in [1, 1000] {
            assert_eq!(all(&index, "", "/", From::Start, max), ["d/", "f"]);
        }
    }

    /// An index in a file whose root has the children that `change` leaves it.
    fn forged(keys: &[&[u8]], change: impl Fn(&mut [u32], u32)) -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let whole = index(keys);
        whole.execute("VACUUM INTO ?1", (path.to_str(),)).unwrap();
        let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'objects'";
        let whole = Connection::open(&path).unwrap();
        let root: u32 = whole.query_row(root, (), |row| row.get(0)).unwrap();
        drop(whole);
        let mut file = std::fs::read(&path).unwrap();
        let page = &mut file[(root as usize - 1) * 4096..][..4096];
        assert_eq!(page[0], 2, "not an inner page");
        let number = |at| usize::from(u16::from_be_bytes([page[at], page[at + 1]]));
        let cells: Vec<usize> = (0..number(3)).map(|cell| number(12 + 2 * cell)).collect();
        // A cell begins with the number of the page below it.
        let child = |at: &usize| u32::from_be_bytes(page[*at..*at + 4].try_into().unwrap());
        let mut children: Vec<u32> = cells.iter().map(child).collect();
        change(&mut children, root);
        for (at, child) in cells.into_iter().zip(children) {
            page[at..at + 4].copy_from_slice(&child.to_be_bytes());
        }
        std::fs::write(&path, &file).unwrap();
        let forged = Connection::open(&path).unwrap();
        (folder, forged)
    }

    /// A large database is not checked as a whole when it is opened. In a forged one, inner pages may lead
    /// anywhere: back, or in a circle.
    #[test]
    fn a_listing_of_pages_in_no_order_ends_with_an_error() {
        let short = (0..400).map(|n| format!("a{n:03}"));
        let long = (0..1000).map(|n| format!("folder/with/a/long/name/{n:04}"));
        let keys: Vec<String> = short.chain(long).collect();
        let keys: Vec<&[u8]> = keys.iter().map(String::as_bytes).collect();
        let back = |children: &mut [u32], _| {
            let count = children.len();
            assert!(count > 10, "{count} children");
            children.swap(1, count - 2);
        };
        let circle = |children: &mut [u32], root| children[8] = root;
        let forgeries = [forged(&keys, back), forged(&keys, circle)];
        for (n, (_folder, index)) in forgeries.iter().enumerate() {
            for prefix in ["", "folder/", "folder/with/a/long/name/"] {
                let mut from = From::Start;
                let failed = loop {
                    let query = Query {
                        prefix,
                        from,
                        max: 1000,
                        ..Query::default()
                    };
                    match list(index, &query) {
                        Err(error) => break error,
                        Ok(page) => from = page.next.expect("it ends as if it were whole"),
                    }
                };
                assert!(
                    matches!(failed, QueryError(Error::Corrupt(_))),
                    "{n} {prefix}: {failed:?}"
                );
            }
        }
    }

    /// What lies below a prefix that is folded costs nothing.
    #[test]
    fn a_folded_prefix_is_skipped_by_seeking() {
        let steps = |below: usize| {
            let keys: Vec<String> = (0..below).map(|n| format!("large/{n}")).collect();
            let mut keys: Vec<&[u8]> = keys.iter().map(String::as_bytes).collect();
            keys.push(b"z");
            let index = index(&keys);
            let query = Query {
                delimiter: "/",
                max: 1000,
                ..Query::default()
            };
            let page = list(&index, &query).unwrap();
            assert_eq!((page.prefixes.len(), page.objects.len()), (1, 1));
            let statement = index.prepare_cached(RANGE).unwrap();
            statement.get_status(rusqlite::StatementStatus::VmStep)
        };
        assert_eq!(steps(10_000), steps(1));
    }
}
