use std::fs;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;

use super::schema::create;
use super::*;

const ONE: Schema = Schema {
    application_id: 7,
    migrations: &["CREATE TABLE t (name TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID"],
};

const TWO: Schema = Schema {
    application_id: 7,
    migrations: &[
        ONE.migrations[0],
        "ALTER TABLE t ADD COLUMN size INTEGER NOT NULL DEFAULT 3",
    ],
};

const SETTINGS: Settings = Settings {
    sync: false,
    readers: 2,
    writer_cache: 256,
    reader_cache: 64,
    max_value: 10_000,
    check_up_to: u64::MAX,
};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        create(&place.path(), &ONE).unwrap();
        place
    }

    fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap().join("db")
    }

    fn open(&self, schema: &Schema) -> Result<Database, Error> {
        Database::open(&self.path(), schema, &SETTINGS)
    }

    /// Runs statements on the closed database, as another program would.
    fn alter(&self, statements: &str) {
        let other = Connection::open(self.path()).unwrap();
        other.execute_batch(statements).unwrap();
    }
}

fn insert(name: &str) -> impl FnOnce(&Connection) -> Result<(), Error> + Send + use<> {
    let name = name.to_string();
    move |connection| {
        connection.execute("INSERT INTO t (name) VALUES (?1)", (name,))?;
        Ok(())
    }
}

fn names(database: &Database) -> Vec<String> {
    database
        .read(|connection| -> Result<_, Error> {
            let mut query = connection.prepare("SELECT name FROM t ORDER BY name")?;
            let names = query.query_map((), |row| row.get(0))?;
            Ok(names.collect::<Result<_, _>>()?)
        })
        .unwrap()
}

/// Commits a change that does not end before `others` are queued.
fn behind_a_leader<T: Send>(
    database: &Database,
    others: Vec<Box<dyn FnOnce() -> T + Send + '_>>,
) -> Vec<thread::Result<T>> {
    let (begun, begins) = mpsc::channel();
    let (end, ends) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let leader = scope.spawn(|| {
            database.write(move |_| -> Result<(), Error> {
                begun.send(()).unwrap();
                ends.recv().unwrap();
                Ok(())
            })
        });
        begins.recv().unwrap();
        let count = others.len();
        let others: Vec<_> = others.into_iter().map(|other| scope.spawn(other)).collect();
        while database.writer.waiting() < count {
            thread::yield_now();
        }
        end.send(()).unwrap();
        leader.join().unwrap().unwrap();
        others.into_iter().map(|other| other.join()).collect()
    })
}

#[test]
fn changes_that_wait_are_committed_together() {
    let place = Place::new();
    let database = place.open(&ONE).unwrap();
    let frames = || -> i64 {
        let connection = lock(database.writer.connection());
        let count = |row: &rusqlite::Row<'_>| row.get(1);
        connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", (), count)
            .unwrap()
    };
    let before = frames();
    let (database, mut others) = (
        &database,
        Vec::<Box<dyn FnOnce() -> Result<(), Error> + Send>>::new(),
    );
    for n in 0..20 {
        others.push(Box::new(move || database.write(insert(&format!("{n:02}")))));
    }
    for done in behind_a_leader(database, others) {
        done.unwrap().unwrap();
    }
    assert_eq!(names(database).len(), 20);
    // The one page of the table, once.
    assert!(frames() - before <= 2, "{} frames", frames() - before);
}

#[test]
fn a_change_that_fails_or_panics_is_undone_alone() {
    let place = Place::new();
    let database = &place.open(&ONE).unwrap();
    let write =
        |name: &'static str, fail: fn()| -> Box<dyn FnOnce() -> Result<(), Error> + Send + '_> {
            Box::new(move || {
                database.write(move |connection| {
                    insert(name)(connection)?;
                    fail();
                    match name {
                        "refused" => Err(Error::Foreign),
                        _ => Ok(()),
                    }
                })
            })
        };
    let others = vec![
        write("first", || ()),
        write("refused", || ()),
        write("panics", || panic!("as it should")),
        write("last", || ()),
    ];
    let mut done = behind_a_leader(database, others).into_iter();
    assert!(done.next().unwrap().unwrap().is_ok());
    assert!(matches!(done.next().unwrap(), Ok(Err(Error::Foreign))));
    assert!(done.next().unwrap().is_err());
    assert!(done.next().unwrap().unwrap().is_ok());
    // Alone, without any other in its group.
    assert!(matches!(write("refused", || ())(), Err(Error::Foreign)));
    assert_eq!(names(database), ["first", "last"]);
    database.write(insert("more")).unwrap();
    assert_eq!(names(database), ["first", "last", "more"]);
}

#[test]
fn a_reader_sees_one_state_and_the_next_one_the_last() {
    let place = Place::new();
    let (one, other) = (place.open(&ONE).unwrap(), place.open(&ONE).unwrap());
    let count = |connection: &Connection| -> Result<i64, Error> {
        Ok(connection.query_row("SELECT count(*) FROM t", (), |row| row.get(0))?)
    };
    one.read(|connection| -> Result<(), Error> {
        assert_eq!(count(connection)?, 0);
        one.write(insert("a"))?;
        other.write(insert("b"))?;
        assert_eq!(count(connection)?, 0);
        Ok(())
    })
    .unwrap();
    assert_eq!(one.read(count).unwrap(), 2);
    assert_eq!(other.read(count).unwrap(), 2);
}

#[test]
fn an_earlier_version_is_migrated_and_a_later_one_refused() {
    let place = Place::new();
    place.open(&ONE).unwrap().write(insert("a")).unwrap();
    let open = place.open(&ONE).unwrap();
    let migrated = place.open(&TWO).unwrap();
    let size = migrated.read(|connection| -> Result<i64, Error> {
        Ok(connection.query_row("SELECT size FROM t", (), |row| row.get(0))?)
    });
    assert_eq!(size.unwrap(), 3);
    let newer =
        |result: Result<(), Error>| matches!(result, Err(Error::Newer { found: 2, known: 1 }));
    assert!(newer(place.open(&ONE).map(|_| ())));
    // An older program that already has it open no longer understands it.
    assert!(newer(open.write(insert("b"))));
    place.open(&TWO).unwrap().write(insert("c")).unwrap();
}

#[test]
fn what_this_program_would_not_make_is_refused() {
    let foreign: &[&str] = &[
        "PRAGMA application_id = 8",
        "PRAGMA user_version = 0",
        "PRAGMA user_version = -1",
        "PRAGMA journal_mode = DELETE",
        "DROP TABLE t",
        "CREATE TABLE more (a)",
        "CREATE TRIGGER more AFTER INSERT ON t BEGIN DELETE FROM t; END",
        "CREATE INDEX more ON t (upper(name))",
        "DROP TABLE t; CREATE VIEW t AS SELECT 1 AS name",
        "DROP TABLE t; CREATE TABLE t (name TEXT NOT NULL PRIMARY KEY)",
    ];
    for statements in foreign {
        let place = Place::new();
        place.alter(statements);
        let opened = place.open(&ONE).map(|_| ());
        assert!(
            matches!(opened, Err(Error::Foreign)),
            "{statements}: {opened:?}"
        );
    }
    let place = Place::new();
    let many = |n| format!("CREATE TABLE more{n} (a);");
    place.alter(&(0..1000).map(many).collect::<String>());
    assert!(place.open(&ONE).is_err());
    for content in ["", "a letter, and none to a database", &"x".repeat(9000)] {
        fs::write(place.path(), content).unwrap();
        let opened = place.open(&ONE).map(|_| ());
        assert!(
            matches!(opened, Err(Error::Foreign)),
            "{content}: {opened:?}"
        );
    }
}

#[test]
fn a_value_that_is_too_long_is_neither_written_nor_read() {
    let place = Place::new();
    let long = "x".repeat(20_000);
    place.alter(&format!("INSERT INTO t VALUES ('{long}')"));
    let database = place.open(&ONE).unwrap();
    assert!(matches!(
        database.write(insert(&long)),
        Err(Error::TooLarge)
    ));
    let read = database.read(|connection| -> Result<String, Error> {
        Ok(connection.query_row("SELECT name FROM t", (), |row| row.get(0))?)
    });
    assert!(matches!(read, Err(Error::TooLarge)));
}

/// With any page damaged, a call returns the right answer or an error.
#[test]
fn a_damaged_page_is_an_error() {
    let place = Place::new();
    let database = place.open(&ONE).unwrap();
    let fill = |connection: &Connection| -> Result<(), Error> {
        for n in 0..2000 {
            insert(&format!("name{n:05}"))(connection)?;
        }
        Ok(())
    };
    database.write(fill).unwrap();
    drop(database);
    let whole = fs::read(place.path()).unwrap();
    assert!(whole.len() > 8 * 4096);
    let unchecked = Settings {
        check_up_to: 0,
        ..SETTINGS
    };
    let mut found = 0;
    for page in 1..whole.len() / 4096 {
        let mut damaged = whole.clone();
        damaged[page * 4096..(page + 1) * 4096].fill(0xa5);
        fs::write(place.path(), &damaged).unwrap();
        let opened = place.open(&ONE).map(|_| ());
        assert!(
            matches!(opened, Err(Error::Unsound(_) | Error::Damaged(_))),
            "{page}"
        );
        // Where it is too large to be checked at once, it is found by what reads the page.
        let database = Database::open(&place.path(), &ONE, &unchecked).unwrap();
        let count = database.read(|connection| -> Result<i64, Error> {
            Ok(connection.query_row("SELECT count(name) FROM t", (), |row| row.get(0))?)
        });
        found += u32::from(matches!(count, Err(Error::Damaged(_))));
    }
    assert!(found > 0);
}
