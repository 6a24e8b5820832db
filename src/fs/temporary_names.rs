//! Names that tools give to files they are about to rename.
//!
//! A file created under such a name is uploaded at its rename, under the final name, instead of being
//! uploaded, copied and deleted. A wrong guess costs nothing but the wait for the rename.

/// Whether a known tool will rename a file of this name, created with O_EXCL.
pub fn is_temporary(name: &str) -> bool {
    is_rsync(name)
        || name.starts_with("tmp_obj_") // git, loose objects
        || name.starts_with("tmp_pack_") // git, packs
        || name.starts_with("tmp_idx_")
        || name.starts_with("tmp_rev_")
        || (name.ends_with(".lock") && name.len() > ".lock".len()) // git, index and references
        || name.starts_with(".goutputstream-") // GLib
        || (name.starts_with(".~") && name.ends_with(".tmp"))
        || is_mkstemp(name, ".tmp") // many: NAME.tmpXXXXXX
        || is_mkstemp(name, ".sb-") // atomic saves on macOS-like stacks
        || name.starts_with(".com.google.Chrome.")
        || name.starts_with("sed") && name.len() == 9 && is_random(&name[3..]) // sed -i
}

/// `.NAME.XXXXXX`
fn is_rsync(name: &str) -> bool {
    name.strip_prefix('.')
        .and_then(|rest| rest.rsplit_once('.'))
        .is_some_and(|(stem, random)| !stem.is_empty() && random.len() == 6 && is_random(random))
}

fn is_mkstemp(name: &str, infix: &str) -> bool {
    name.rsplit_once(infix)
        .is_some_and(|(stem, random)| !stem.is_empty() && random.len() >= 6 && is_random(random))
}

fn is_random(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::is_temporary;

    #[test]
    fn tools_names_are_known() {
        for (name, expected) in [
            (".stdio.h.a1B2c3", true),
            ("..bashrc.Q0Q0Q0", true),
            ("tmp_obj_abc123", true),
            ("tmp_pack_abc123", true),
            ("index.lock", true),
            (".goutputstream-XYZ123", true),
            ("sedAb12Cd", true),
            ("file.txt", false),
            (".lock", false),
            (".hidden", false),
            (".config.json", false),
            ("archive.tar.gz", false),
            ("sediment1", true), // looks random: the cost is a short wait
        ] {
            assert_eq!(is_temporary(name), expected, "{name}");
        }
    }
}
