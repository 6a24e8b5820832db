//! scripts/exercise runs ignored tests by name; a name that no test has would pass without running anything.

use std::fs;
use std::path::Path;

#[test]
fn every_test_that_an_exercise_runs_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = 0;
    for script in fs::read_dir(root.join("scripts/exercise.d")).unwrap() {
        let script = script.unwrap().path();
        let text = fs::read_to_string(&script).unwrap();
        let names = text.split("--exact ").skip(1);
        for name in names.filter_map(|rest| rest.split_whitespace().next()) {
            let (module, test) = name.rsplit_once("::").unwrap();
            let module = module.replace("::", "/");
            let files = [format!("{module}.rs"), format!("{module}/mod.rs")];
            let source = files
                .iter()
                .find_map(|file| fs::read_to_string(root.join("tests/it").join(file)).ok());
            assert!(
                source.is_some_and(|source| source.contains(&format!("fn {test}()"))),
                "{}: {name}",
                script.display()
            );
            found += 1;
        }
    }
    assert!(found > 0);
}
