//! Rules of the house that no lint knows. Tests only.

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use toml::{Table, Value};

    use crate::{root, source};

    fn manifest(path: &str) -> Table {
        let text = fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        text.parse().unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    fn members() -> Vec<(String, Table)> {
        let workspace = manifest("Cargo.toml");
        let members = workspace["workspace"]["members"].as_array().expect("the workspace lists its members");
        let names = members.iter().filter_map(Value::as_str);
        names.map(|name| (name.to_string(), manifest(&format!("{name}/Cargo.toml")))).collect()
    }

    #[test]
    fn every_package_opts_into_the_lints() {
        for (name, manifest) in members() {
            let opted = manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool);
            assert_eq!(opted, Some(true), "{name}/Cargo.toml: add [lints] workspace = true");
        }
    }

    #[test]
    fn every_folder_with_a_manifest_is_a_member() {
        let members: Vec<String> = members().into_iter().map(|(name, _)| name).collect();
        for entry in fs::read_dir(root()).expect("the root is readable").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().join("Cargo.toml").exists() {
                assert!(members.contains(&name), "{name} has a Cargo.toml and is no member of the workspace");
            }
        }
    }

    #[test]
    fn every_version_stands_in_the_one_table() {
        for (name, manifest) in members() {
            for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
                let Some(table) = manifest.get(section).and_then(Value::as_table) else { continue };
                for (dependency, value) in table {
                    let shared = value.get("workspace").and_then(Value::as_bool);
                    assert_eq!(
                        shared,
                        Some(true),
                        "{name}/Cargo.toml: {dependency}: write {dependency}.workspace = true"
                    );
                }
            }
        }
    }

    #[test]
    fn the_one_table_is_sorted() {
        let text = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace has a manifest");
        let table = text.split("[workspace.dependencies]\n").nth(1).expect("the workspace has a table of dependencies");
        let names: Vec<&str> = table
            .lines()
            .take_while(|line| !line.starts_with('['))
            .filter_map(|l| l.split_once(" = "))
            .map(|p| p.0)
            .collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(names, sorted);
    }

    #[test]
    fn no_test_is_switched_off() {
        let mark = concat!("#[", "ignore");
        for (name, _) in members() {
            for file in source::rust_files(&root(), &name).expect("the source is readable") {
                assert!(!file.text.contains(mark), "{}: repair the test or remove it", file.name());
            }
        }
    }

    #[test]
    fn no_file_is_longer_than_six_hundred_lines() {
        let mut long = BTreeMap::new();
        for (name, _) in members() {
            for file in source::rust_files(&root(), &name).expect("the source is readable") {
                let lines = file.text.lines().count();
                if lines > 600 {
                    long.insert(file.name(), lines);
                }
            }
        }
        assert!(long.is_empty(), "split these (the aim is 400 lines): {long:?}");
    }
}
