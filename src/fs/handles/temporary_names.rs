//! Names that tools give to files they are about to rename.
//!
//! A file created under such a name is uploaded at its rename, under the final name, instead of being
//! uploaded, copied and deleted. A wrong guess costs the wait for the rename, and a close that does not wait for
//! the upload: so a name must look like no name that a person gives, and be made with O_EXCL.

/// How a name begins and how it ends, with something in between.
const AROUND: &[(&str, &str)] = &[
    // git: objects, packs and what belongs to them; index and references
    ("tmp_obj_", ""),
    ("tmp_pack_", ""),
    ("tmp_idx_", ""),
    ("tmp_rev_", ""),
    ("tmp_midx_", ""),
    ("tmp_bitmap_", ""),
    ("", ".lock"),
    // GLib, when a file is replaced
    (GLIB_REPLACE, ""),
    // many: restic, borg, Syncthing, Unison, Java, Office by way of Samba
    ("", ".tmp"),
    // browsers and downloaders
    (".com.google.Chrome.", ""),
    (".org.chromium.Chromium.", ""),
    ("", ".crdownload"),
    ("", ".part"),
    ("", ".partial"),
    ("", ".filepart"),
    // dpkg
    ("", ".dpkg-new"),
    ("", ".dpkg-tmp"),
    ("", "_exiftool_tmp"),
];

/// What ends like git's but is made to stay.
const STAYING: &[&str] = &[
    "Cargo.lock",
    "Chart.lock",
    "Gemfile.lock",
    "Pipfile.lock",
    "Podfile.lock",
    "bun.lock",
    "composer.lock",
    "conan.lock",
    "deno.lock",
    "flake.lock",
    "mix.lock",
    "pdm.lock",
    "poetry.lock",
    "pubspec.lock",
    "uv.lock",
    "yarn.lock",
];

/// GLib, when a file is replaced. It calls fsync right before the rename.
const GLIB_REPLACE: &str = ".goutputstream-";

/// Vim makes a file of this name to see whether it could, and removes it.
const VIM: &str = "4913";

/// A name that ends with characters drawn at random.
struct Drawn {
    begin: &'static str,
    /// The final name stands between `begin` and `mark`.
    has_name: bool,
    mark: &'static str,
    random: fn(&str) -> bool,
}

const DRAWN: &[Drawn] = &[
    // rsync: `.NAME.XXXXXX`
    drawn(".", true, ".", |text| {
        text.len() == 6 && is_alphanumeric(text)
    }),
    // mkstemp, GLib's g_file_set_contents, Qt's QSaveFile: `NAME.XXXXXX`
    drawn("", true, ".", |text| text.len() == 6 && is_mixed(text)),
    // many: `NAME.tmpXXXXXX`
    drawn("", true, ".tmp", |text| {
        text.len() >= 6 && is_alphanumeric(text)
    }),
    // atomic saves on macOS-like stacks
    drawn("", true, ".sb-", |text| {
        text.len() >= 6 && is_alphanumeric(text)
    }),
    // fontconfig
    drawn("", true, ".TMP-", |text| {
        text.len() == 6 && is_alphanumeric(text)
    }),
    // restic
    drawn("", true, "-tmp-", |text| {
        text.len() >= 6 && is_alphanumeric(text)
    }),
    // Nextcloud
    drawn(".", true, ".~", |text| text.len() >= 4 && is_hex(text)),
    // rpm
    drawn("", true, ";", |text| text.len() == 8 && is_hex(text)),
    // systemd
    drawn(".#", false, "", |text| {
        let name = text
            .len()
            .checked_sub(16)
            .filter(|name| text.is_char_boundary(*name));
        name.is_some_and(|name| name > 0 && is_hex(&text[name..]))
    }),
    // sed -i, gawk -i inplace, mktemp, Rust's tempfile
    drawn("sed", false, "", |text| {
        text.len() == 6 && is_alphanumeric(text)
    }),
    drawn("gawk.", false, "", |text| {
        text.len() == 6 && is_alphanumeric(text)
    }),
    drawn("tmp.", false, "", |text| {
        (6..=10).contains(&text.len()) && is_mixed(text)
    }),
    drawn(".tmp", false, "", |text| {
        text.len() == 6 && is_alphanumeric(text)
    }),
    // Python's tempfile
    drawn("tmp", false, "", |text| {
        let drawn = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        text.len() == 8 && text.bytes().all(drawn) && text.bytes().any(|byte| byte.is_ascii_digit())
    }),
];

const fn drawn(
    begin: &'static str,
    has_name: bool,
    mark: &'static str,
    random: fn(&str) -> bool,
) -> Drawn {
    Drawn {
        begin,
        has_name,
        mark,
        random,
    }
}

/// Whether a known tool will rename a file of this name, created with O_EXCL, or remove it at once.
pub fn is_temporary(name: &str) -> bool {
    !STAYING.contains(&name)
        && (name == VIM
            || AROUND.iter().any(|around| is_around(name, around))
            || DRAWN.iter().any(|drawn| is_drawn(name, drawn)))
}

/// Whether such a name has a random part, so that no two clients choose the same.
pub fn is_random(name: &str) -> bool {
    // What only ends in a known way has the final name before that.
    let mut around = AROUND.iter().filter(|(begin, _)| !begin.is_empty());
    around.any(|around| is_around(name, around)) || DRAWN.iter().any(|drawn| is_drawn(name, drawn))
}

fn is_around(name: &str, (begin, end): &(&str, &str)) -> bool {
    let rest = name.strip_prefix(begin);
    rest.and_then(|rest| rest.strip_suffix(end))
        .is_some_and(|name| !name.is_empty())
}

fn is_drawn(name: &str, drawn: &Drawn) -> bool {
    let Some(rest) = name.strip_prefix(drawn.begin) else {
        return false;
    };
    match drawn.has_name {
        false => (drawn.random)(rest),
        true => rest
            .rsplit_once(drawn.mark)
            .is_some_and(|(name, random)| !name.is_empty() && (drawn.random)(random)),
    }
}

/// Whether the tool that made it calls fsync right before it renames it.
pub fn is_synced_before_rename(name: &str) -> bool {
    name.starts_with(GLIB_REPLACE)
}

fn is_alphanumeric(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Capitals, and not only: nearly all that is drawn from letters, or from capitals and digits, and hardly an
/// extension.
fn is_mixed(text: &str) -> bool {
    let capitals = text.bytes().filter(u8::is_ascii_uppercase).count();
    is_alphanumeric(text) && capitals > 0 && capitals < text.len()
}

fn is_hex(text: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.bytes().all(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_names_are_known() {
        for (name, expected) in [
            (".stdio.h.a1B2c3", true),
            ("..bashrc.Q0Q0Q0", true),
            ("tmp_obj_abc123", true),
            ("tmp_pack_abc123", true),
            ("index.lock", true),
            ("Cargo.lock", false),
            ("yarn.lock", false),
            (".goutputstream-XYZ123", true),
            ("sedAb12Cd", true),
            ("file.txt", false),
            (".lock", false),
            (".tmp", false),
            (".part", false),
            (".hidden", false),
            (".config.json", false),
            ("archive.tar.gz", false),
            ("sediment1", true), // looks random: the cost is a short wait
            // GLib, Qt, mkstemp
            ("settings.ini.B7K2Q9", true),
            ("kdeglobals.hJwQbz", true),
            ("user.BL8C40", true),
            ("notes.backup", false),
            ("sums.sha256", false),
            ("core.123456", false),
            ("log.202401", false),
            ("FILE.README", false),
            ("v1.2.3", false),
            // others
            ("report.docx.tmp", true),
            ("~WRD0001.tmp", true),
            ("film.mkv.part", true),
            ("Unconfirmed 12345.crdownload", true),
            ("libc.so.6.dpkg-new", true),
            ("bash;5f3e1a2b", true),
            (".#machine-id0123456789abcdef", true),
            (".#notes.txt", false),
            ("snapshot-tmp-481516", true),
            ("f.uuid.TMP-a1B2c3", true),
            ("tmp.Xy12Zw34Ab", true),
            ("tmp.txt", false),
            (".tmpa1B2c3", true),
            ("tmp1a2b3c4d", true),
            ("tmp_results", false),
            ("photo.jpg_exiftool_tmp", true),
            (".notes.txt.~1a2b3c", true),
            ("4913", true),
            ("4914", false),
            // SQLite's files beside a database, which are not renamed
            ("data.db-journal", false),
            ("data.db-wal", false),
            ("data.db-shm", false),
            ("", false),
            (".", false),
            ("é.é", false),
            (".#é", false),
        ] {
            assert_eq!(is_temporary(name), expected, "{name}");
        }
    }

    #[test]
    fn names_that_two_clients_may_choose_are_told_from_those_drawn_at_random() {
        for (name, expected) in [
            ("tmp_obj_abc123", true),
            (".stdio.h.a1B2c3", true),
            (".goutputstream-XYZ123", true),
            ("index.lock", false),
            ("film.mkv.part", false),
            ("4913", false),
            ("file", false),
        ] {
            assert_eq!(is_random(name), expected, "{name}");
        }
    }

    #[test]
    fn only_a_tool_that_renames_right_after_fsync_is_taken_to_do_so() {
        for (name, expected) in [
            (".goutputstream-XYZ123", true),
            ("settings.ini.B7K2Q9", false),
            (".f.a1B2c3", false),
            ("file", false),
        ] {
            assert_eq!(is_synced_before_rename(name), expected, "{name}");
        }
    }
}
