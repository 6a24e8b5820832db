//! One entry point per parser of input from outside, for fuzzers and for the tests over the corpus.
//!
//! Each function takes any bytes, returns normally, and asserts what must hold of whatever was accepted. It neither
//! waits nor touches the disk or the network, and what it allocates is bounded by its input.

mod answers;
mod input;
mod keys;
mod local;
mod requests;
mod settings;
mod stored;

/// A parser: its name, which is also its corpus' folder, and its entry point.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

pub const TARGETS: &[Target] = &[
    Target {
        name: "answer_headers",
        run: answers::headers,
    },
    Target {
        name: "answer_xml",
        run: answers::xml,
    },
    Target {
        name: "attributes",
        run: stored::attributes,
    },
    Target {
        name: "command_line",
        run: settings::command_line,
    },
    Target {
        name: "credentials",
        run: settings::credentials,
    },
    Target {
        name: "daemon_file",
        run: local::daemon_file,
    },
    Target {
        name: "envelope",
        run: stored::envelope,
    },
    Target {
        name: "environment",
        run: settings::environment,
    },
    Target {
        name: "key_encryption",
        run: keys::encryption,
    },
    Target {
        name: "key_file",
        run: keys::file,
    },
    Target {
        name: "key_marker",
        run: stored::key_marker,
    },
    Target {
        name: "key_text",
        run: keys::text,
    },
    Target {
        name: "manifest",
        run: local::manifest,
    },
    Target {
        name: "mount_table",
        run: local::mount_table,
    },
    Target {
        name: "names",
        run: stored::names,
    },
    Target {
        name: "rename_intent",
        run: stored::rename_intent,
    },
    Target {
        name: "request",
        run: requests::request,
    },
    Target {
        name: "request_xml",
        run: requests::xml,
    },
    Target {
        name: "saved_envelopes",
        run: local::saved_envelopes,
    },
    Target {
        name: "shown_text",
        run: settings::shown_text,
    },
    Target {
        name: "store_row",
        run: local::store_row,
    },
    Target {
        name: "store_upload",
        run: local::store_upload,
    },
    Target {
        name: "xattrs",
        run: stored::xattrs,
    },
];

/// Runs the target of that name; false if there is none.
pub fn run(name: &str, input: &[u8]) -> bool {
    let target = TARGETS.iter().find(|target| target.name == name);
    if let Some(target) = target {
        (target.run)(input);
    }
    target.is_some()
}
