//! What the server is built of, held against deny.toml: licences, crates that are banned, the same crate twice, where
//! crates come from. What cargo-deny says besides, of advisories, needs their database: `make supply` asks it where it
//! is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn deny() -> toml::Table {
    let text = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    text.parse().unwrap()
}

/// The texts of a list, of which each is one or has it under `name`.
fn list<'a>(of: &'a toml::Value, name: &str) -> Vec<&'a str> {
    let entry = |entry: &'a toml::Value| entry.as_str().or_else(|| entry.get(name)?.as_str());
    of.as_array().unwrap().iter().map(|value| entry(value).unwrap()).collect()
}

struct Package {
    name: String,
    version: String,
    license: String,
    source: Option<String>,
    /// The crates that name it among their dependencies, those of tests and build scripts included.
    dependents: BTreeSet<String>,
}

/// Every crate that the workspace is built of, tests and build scripts included.
fn packages() -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version", "1", "--locked", "--offline"]);
    command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]).current_dir(root());
    let said = command.output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let metadata: Value = serde_json::from_slice(&said.stdout).unwrap();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let used: BTreeSet<&str> = nodes.iter().map(|node| node["id"].as_str().unwrap()).collect();
    let all = metadata["packages"].as_array().unwrap();
    let used = all.iter().filter(|package| used.contains(package["id"].as_str().unwrap()));
    let text = |package: &Value, name: &str| package[name].as_str().map(str::to_owned);
    let names: BTreeMap<&str, String> =
        all.iter().map(|it| (it["id"].as_str().unwrap(), text(it, "name").unwrap())).collect();
    let mut dependents: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for node in nodes {
        for dependency in node["dependencies"].as_array().unwrap() {
            let of = dependents.entry(dependency.as_str().unwrap()).or_default();
            of.insert(names[node["id"].as_str().unwrap()].clone());
        }
    }
    used.map(|package| Package {
        name: text(package, "name").unwrap(),
        version: text(package, "version").unwrap(),
        license: text(package, "license").unwrap_or_default(),
        source: text(package, "source"),
        dependents: dependents.remove(package["id"].as_str().unwrap()).unwrap_or_default(),
    })
    .collect()
}

/// Whether an expression (SPDX) can be satisfied with these licences. Parentheses stand around whole parts alone.
fn satisfied(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let flat = expression.replace('/', " OR ");
    let mut parts = vec![String::new()];
    let mut depth = 0;
    for word in flat.replace('(', " ( ").replace(')', " ) ").split_whitespace() {
        match word {
            "(" => depth += 1,
            ")" => depth -= 1,
            "AND" if depth == 0 => parts.push(String::new()),
            _ => {
                let last = parts.last_mut().unwrap();
                *last = format!("{last} {word}").trim().to_owned();
            }
        }
    }
    parts.iter().all(|part| {
        part.split(" OR ").any(|choice| choice.split(" AND ").all(|one| allowed.contains(one)))
    })
}

#[test]
fn every_licence_is_one_that_is_allowed() {
    let deny = deny();
    let licenses = &deny["licenses"];
    let allowed: BTreeSet<&str> = list(&licenses["allow"], "").into_iter().collect();
    let mut exceptions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for exception in licenses["exceptions"].as_array().unwrap() {
        assert!(exception["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
        exceptions.insert(exception["crate"].as_str().unwrap(), list(&exception["allow"], ""));
    }
    for package in packages() {
        let mut allowed = allowed.clone();
        allowed.extend(exceptions.remove(package.name.as_str()).unwrap_or_default());
        let Package { name, license, .. } = &package;
        assert!(satisfied(license, &allowed), "{name}: `{license}`");
    }
    assert!(exceptions.is_empty(), "not needed any more: {exceptions:?}");
    assert!(!satisfied("GPL-3.0-only", &allowed) && !satisfied("MIT AND GPL-3.0-only", &allowed));
    assert!(satisfied("GPL-2.0-only OR (MIT AND ISC)", &allowed) && !satisfied("", &allowed));
}

#[test]
fn no_crate_is_banned_or_there_twice_without_a_reason() {
    let deny = deny();
    let bans = &deny["bans"];
    // With those that may name it among their dependencies all the same.
    let mut banned: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for ban in bans["deny"].as_array().unwrap() {
        assert!(ban["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{ban:?}");
        let wrappers = ban.get("wrappers").map(|wrappers| list(wrappers, ""));
        let wrappers = wrappers.unwrap_or_default().into_iter().collect();
        assert!(banned.insert(ban["crate"].as_str().unwrap(), wrappers).is_none(), "{ban:?}");
    }
    let mut needless = banned.clone();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for Package { name, version, dependents, .. } in packages() {
        if let Some(wrappers) = banned.get(name.as_str()) {
            assert!(!wrappers.is_empty(), "{name} is banned");
            for dependent in &dependents {
                assert!(wrappers.contains(dependent.as_str()), "{name} is banned from {dependent}");
            }
            let needless = needless.get_mut(name.as_str()).unwrap();
            needless.retain(|wrapper| !dependents.contains(*wrapper));
        }
        versions.entry(name).or_default().insert(version);
    }
    needless.retain(|_, wrappers| !wrappers.is_empty());
    assert!(needless.is_empty(), "not needed any more: {needless:?}");
    let mut skips: BTreeSet<&str> = BTreeSet::new();
    for skip in bans["skip"].as_array().unwrap() {
        assert!(skip["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{skip:?}");
        skips.insert(skip["crate"].as_str().unwrap());
    }
    for (name, mut versions) in versions {
        let all = versions.len();
        versions.retain(|version| {
            let skip = skips.iter().copied().find(|skip| {
                skip.strip_prefix(&format!("{name}@"))
                    .is_some_and(|of| version == of || version.starts_with(&format!("{of}.")))
            });
            // One that is there once needs no skip, so its skip stays and is told of.
            skip.filter(|_| all > 1).is_none_or(|skip| !skips.remove(skip))
        });
        assert!(versions.len() <= 1, "{name} is there as {versions:?}");
    }
    assert!(skips.is_empty(), "not needed any more: {skips:?}");
}

#[test]
fn every_crate_comes_from_the_registry() {
    for Package { name, version, source, .. } in packages() {
        let from = source.as_deref().unwrap_or("this repository");
        let is_known =
            source.is_none() || from == "registry+https://github.com/rust-lang/crates.io-index";
        assert!(is_known, "{name} {version} comes from {from}");
        assert_eq!(source.is_none(), name.starts_with("rowtide"), "{name}");
    }
}
