//! Work on one bucket that several processes share: parts, inventories, reports, and the proof that they are complete.

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

const VERIFY: [&str; 4] = ["verify", "oss://bucket/tree", "--private-key", "key"];

/// What a report says of each object in a pass, in its order.
fn reported(path: &Path, pass: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| -> serde_json::Value {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
    });
    let lines = lines.filter(|line| line["pass"] == pass && line["key"].is_string());
    let value = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    lines
        .map(|line| (value(&line["key"]), value(&line["outcome"])))
        .collect()
}

fn sorted_keys(reports: &[std::path::PathBuf], pass: &str) -> Vec<String> {
    let lines = reports.iter().flat_map(|path| reported(path, pass));
    let mut keys: Vec<String> = lines.map(|(key, _)| key).collect();
    keys.sort();
    keys
}

fn tree(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("tree/{index:03}")).collect()
}

/// An inventory of these keys in the rig's bucket, in two data files; and the same in the folder `lists`.
fn put_inventory(rig: &Rig, keys: &[String], created: u64) {
    let mut files = Vec::new();
    fs::create_dir_all(rig.path("lists/data")).unwrap();
    for (number, keys) in keys.chunks(keys.len().div_ceil(2).max(1)).enumerate() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        for key in keys {
            // As the service writes them: quoted and URL-encoded, with columns that mean nothing here.
            let key = key.replace('/', "%2F");
            writeln!(
                encoder,
                "\"bucket\",\"{key}\",\"Standard\",37,\"2026-01-03T04:05:06.000Z\""
            )
            .unwrap();
        }
        let bytes = encoder.finish().unwrap();
        let key = format!("lists/bucket/daily/data/{number}.csv.gz");
        put_plain(rig, &key, &ObjectHeaders::default(), &bytes);
        fs::write(rig.path(&format!("lists/data/{number}.csv.gz")), &bytes).unwrap();
        files.push(serde_json::json!({"key": key, "size": bytes.len()}));
    }
    let manifest = serde_json::json!({
        "creationTimestamp": created.to_string(),
        "destinationBucket": "bucket",
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, StorageClass, Size, LastModifiedDate",
        "files": files,
        "sourceBucket": "bucket",
        "version": "2019-09-01",
    });
    let manifest = manifest.to_string();
    put_plain(
        rig,
        "lists/bucket/daily/2026-01-03T04-05Z/manifest.json",
        &ObjectHeaders::default(),
        manifest.as_bytes(),
    );
    fs::write(rig.path("lists/manifest.json"), manifest).unwrap();
}

const IN_BUCKET: &str = "oss://bucket/lists/bucket/daily/2026-01-03T04-05Z/manifest.json";

#[test]
fn parts_share_a_prefix_and_their_reports_are_complete_together() {
    const COUNT: usize = 40;
    let rig = Rig::new();
    fill(&rig, COUNT, Format::Seed);
    let reports: Vec<_> = (0..3)
        .map(|part| rig.path(&format!("report-{part}")))
        .collect();
    for part in 0..2 {
        let report = format!("report-{part}");
        let shard = format!("{part}/3");
        let sharing = ["--shard", &shard, "--report", &report];
        run(&rig, &[&VERIFY[..], &sharing].concat()).succeeds();
    }
    let all = [
        "report",
        "report-0",
        "report-1",
        "--source",
        "oss://bucket/tree",
    ];
    let incomplete = run(&rig, &all).fails(43, &["1 parts have no report"]);
    assert!(
        incomplete.stdout.contains("no report of part 2"),
        "{}",
        incomplete.stdout
    );
    assert!(
        incomplete.stdout.contains("missing: tree/"),
        "{}",
        incomplete.stdout
    );

    // As in a pod of an indexed Job.
    let pod = command(&rig, &[&VERIFY[..], &["--report", "report-2"]].concat())
        .env("JOB_COMPLETION_INDEX", "2")
        .env("JOB_COMPLETIONS", "3")
        .output()
        .unwrap();
    assert!(
        pod.status.success(),
        "{}",
        String::from_utf8_lossy(&pod.stderr)
    );
    assert_eq!(sorted_keys(&reports, "verify"), tree(COUNT));
    assert!(
        reports
            .iter()
            .all(|path| reported(path, "verify").len() < COUNT)
    );

    let all = [&all[..], &["report-2"]].concat();
    let complete = run(&rig, &all).succeeds();
    assert!(
        complete
            .stdout
            .contains("40 objects in the reports, 40 in the bucket"),
        "{}",
        complete.stdout
    );
    // A report that is complete is not written again.
    let again = [&VERIFY[..], &["--shard", "0/3", "--report", "report-0"]].concat();
    let requests = rig.requests(|| drop(run(&rig, &again).succeeds()));
    assert_eq!(requests.of(Operation::GetObject), 0);
    run(&rig, &all).succeeds();

    // An object that has come since, and one that has gone.
    fill(&rig, COUNT + 1, Format::Seed);
    rig.block_on(rig.store.delete(&object_key("tree/000")))
        .unwrap();
    let late = run(&rig, &all).fails(43, &["1 objects are missing"]);
    assert!(late.stdout.contains("missing: tree/040"), "{}", late.stdout);
    assert!(late.stdout.contains("1 gone"), "{}", late.stdout);

    // A file of something else.
    run(&rig, &["report", "report-0", "key"]).fails(2, &["key is not a report"]);
    run(&rig, &["report", "report-0", "report-0"]).fails(2, &["the same part"]);
    run(&rig, &[&VERIFY[..], &["--shard", "3/3"]].concat()).fails(2, &["numbered from 0"]);
    run(&rig, &[&VERIFY[..], &["--report", "key"]].concat()).fails(25, &["another file"]);
    let quick = ["--quick", "--shard", "0/3", "--report", "report-0"];
    run(&rig, &[&VERIFY[..], &quick].concat()).fails(25, &["another command"]);
}

#[test]
fn an_inventory_names_the_objects_without_a_listing() {
    const COUNT: usize = 20;
    let rig = Rig::new();
    fill(&rig, COUNT, Format::Seed);
    let mut keys = tree(COUNT);
    // Inventories are in no order, and older than the bucket.
    keys.reverse();
    keys.push("tree/deleted".to_owned());
    keys.push("elsewhere/x".to_owned());
    put_inventory(&rig, &keys, 1_700_000_000);
    for (manifest, report) in [(IN_BUCKET, "one"), ("lists/manifest.json", "other")] {
        let sharing = ["--manifest", manifest, "--report", report];
        let requests = rig.requests(|| {
            let run = run(&rig, &[&VERIFY[..], &sharing].concat()).succeeds();
            assert!(run.stdout.contains("20 no-damage"), "{}", run.stdout);
            assert!(run.stdout.contains("1 gone"), "{}", run.stdout);
        });
        assert_eq!(requests.of(Operation::ListObjectsV2), 0, "{manifest}");
        let path = rig.path(report);
        let mut expected = [&tree(COUNT)[..], &["tree/deleted".to_owned()]].concat();
        expected.sort();
        assert_eq!(sorted_keys(&[path], "verify"), expected, "{manifest}");
    }
    let proof = ["report", "one", "--manifest", IN_BUCKET];
    run(&rig, &proof).succeeds();
    let proof = [
        "report",
        "one",
        "--manifest",
        IN_BUCKET,
        "--source",
        "oss://bucket/tree",
    ];
    run(&rig, &proof).succeeds();
    // What has come since then is named.
    fill(&rig, COUNT + 1, Format::Seed);
    let new = run(&rig, &proof).fails(43, &["1 objects are missing"]);
    assert!(new.stdout.contains("new: tree/020"), "{}", new.stdout);

    // Another inventory of the same bucket, and one of another bucket.
    put_inventory(&rig, &keys, 1_700_000_001);
    run(&rig, &proof).fails(2, &["another inventory"]);
    let other = [
        "verify",
        "oss://other/tree",
        "--private-key",
        "key",
        "--manifest",
        IN_BUCKET,
    ];
    run(&rig, &other).fails(2, &["the inventory is of the bucket bucket"]);
    let missing = ["--manifest", "oss://bucket/lists/none.json"];
    run(&rig, &[&VERIFY[..], &missing].concat()).fails(1, &["lists/none.json"]);
    let compared = ["--compare", "lists", "--manifest", IN_BUCKET];
    run(&rig, &[&VERIFY[..], &compared].concat()).fails(2, &["cannot be combined"]);
}

/// A run that is killed goes on after its last checkpoint: each object is reported once in each pass.
#[test]
fn a_report_has_each_object_once_however_often_the_run_is_killed() {
    const COUNT: usize = 300;
    let rig = Rig::new();
    make_new_key(&rig);
    fill(&rig, COUNT, Format::Seed);
    let arguments = [&REWRAP[..], &["--parallel", "4", "--report", "report"]].concat();
    let copies = || rig.instruments().counts().of(Operation::CopyObject);
    for round in 1..=4 {
        let mut child = command(&rig, &arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while copies() < round * 60 {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::sleep(Duration::from_millis(1));
        }
        // Every other time it is asked to end, and keeps what it has done.
        let signal = match round % 2 {
            0 => Signal::SIGKILL,
            _ => Signal::SIGTERM,
        };
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        child.wait().unwrap();
        rig.settle();
    }
    let last = run(&rig, &arguments).succeeds();
    // What earlier runs have finished is in the summary too.
    assert!(
        last.stdout.contains("rewrap: 300 objects"),
        "{}",
        last.stdout
    );
    assert!(last.stdout.contains("300 proved"), "{}", last.stdout);
    for pass in ["rewrap", "proof"] {
        assert_eq!(
            sorted_keys(&[rig.path("report")], pass),
            tree(COUNT),
            "{pass}"
        );
    }
    assert_tree(&rig, "new", COUNT);
    run(&rig, &["report", "report", "--source", "oss://bucket/tree"]).succeeds();
    assert!(!rig.path("report.checkpoint").exists());
}

/// Eight processes over a hundred thousand objects, each killed again and again.
#[test]
#[ignore = "takes long: scripts/exercise shards"]
fn eight_killed_processes_report_a_hundred_thousand_objects_once_each() {
    const COUNT: usize = 100_000;
    const PARTS: usize = 8;
    let rig = Rig::new();
    let bucket = bucket(&rig, "key", Format::Seed);
    rig.block_on(async {
        use futures_util::stream::{self, StreamExt};
        stream::iter(0..COUNT)
            .for_each_concurrent(32, |index| {
                let bucket = bucket.clone();
                async move {
                    let plain = Plaintext::from_bytes(content(index % 8));
                    let key = object_key(&format!("tree/{index:06}"));
                    let headers = ObjectHeaders::default();
                    let put = bucket.put(&key, &plain, headers, None, Overwrite::Allowed);
                    put.await.unwrap();
                }
            })
            .await;
    });
    let mut keys: Vec<String> = (0..COUNT).map(|index| format!("tree/{index:06}")).collect();
    keys.rotate_left(COUNT / 3);
    put_inventory(&rig, &keys, 1_700_000_000);
    let start = |part: usize| {
        let (shard, report) = (format!("{part}/{PARTS}"), format!("report-{part}"));
        let sharing = [
            "--quick",
            "--manifest",
            IN_BUCKET,
            "--shard",
            &shard,
            "--report",
            &report,
        ];
        command(&rig, &[&VERIFY[..], &sharing].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut running: Vec<_> = (0..PARTS).map(|part| Some(start(part))).collect();
    let (mut kills, mut peak) = (0, 0_u64);
    while running.iter().any(Option::is_some) {
        std::thread::sleep(Duration::from_millis(150));
        let part = rand::random_range(0..PARTS);
        for (number, slot) in running.iter_mut().enumerate() {
            let Some(child) = slot else { continue };
            let status = fs::read_to_string(format!("/proc/{}/status", child.id()));
            let memory = status.unwrap_or_default();
            let memory = memory.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let memory = memory.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
            peak = peak.max(memory.unwrap_or(0));
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "part {number}: {status}");
                *slot = None;
            } else if number == part && kills < 60 {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
                *slot = Some(start(number));
            }
        }
    }
    let reports: Vec<String> = (0..PARTS).map(|part| format!("report-{part}")).collect();
    let mut proof = vec![
        "report",
        "--source",
        "oss://bucket/tree",
        "--manifest",
        IN_BUCKET,
    ];
    proof.extend(reports.iter().map(String::as_str));
    let proof = run(&rig, &proof).succeeds();
    println!("{kills} kills, peak memory of a process {} MiB", peak >> 10);
    println!("{}", proof.stdout);
    assert!(kills >= 20, "{kills}");
    assert!(
        proof.stdout.contains(
            "100000 objects in the reports, 100000 in the inventory, 100000 in the bucket"
        ),
        "{}",
        proof.stdout
    );
    keys.sort();
    let paths: Vec<_> = reports.iter().map(|name| rig.path(name)).collect();
    assert_eq!(sorted_keys(&paths, "verify"), keys);
}
