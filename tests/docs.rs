//! Holds the documents to the tree: what they link to exists, what they name as a test is one, and
//! a function that stands beside a link lives in the file behind it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A link of a document: its text, and where it leads.
#[derive(Debug)]
struct Link<'a> {
    line: usize,
    text: &'a str,
    target: &'a str,
}

/// All files below a directory that end so, but for what builds leave behind.
fn files_below(directory: &Path, ending: &str, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("names are UTF-8");
        let is_built = ["target", "build", "data"].contains(&name) || name.starts_with('.');
        if path.is_dir() && !is_built {
            files_below(&path, ending, files);
        } else if name.ends_with(ending) {
            files.push(path);
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn documents() -> Vec<(PathBuf, String)> {
    let mut paths = Vec::new();
    files_below(root(), ".md", &mut paths);
    assert!(paths.len() > 4, "the documents were not found");
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).expect("readable"))).collect()
}

/// A document with its code blocks left blank, so that lines keep their numbers.
fn prose(text: &str) -> String {
    let mut in_code = false;
    let mut prose = String::new();
    for line in text.lines() {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        if !in_code && !is_fence && !line.starts_with("    ") {
            prose.push_str(line);
        }
        prose.push('\n');
    }
    prose
}

fn line_of(prose: &str, at: usize) -> usize {
    1 + prose[..at].matches('\n').count()
}

/// The links of a document's prose; their texts may go over several lines.
fn links(prose: &str) -> Vec<Link<'_>> {
    let ends = prose.match_indices("](");
    let link = |(at, _): (usize, &str)| {
        let line = line_of(prose, at);
        let start = prose[..at].rfind('[').unwrap_or_else(|| panic!("line {line}: a link has no beginning"));
        let target = prose[at + 2..].split(')').next().expect("split gives a part");
        Link { line, text: &prose[start + 1..at], target }
    };
    ends.map(link).collect()
}

/// The anchor that a heading gets: its words in small letters, hyphens between them.
fn anchors(text: &str) -> BTreeSet<String> {
    let prose = prose(text);
    let headings = prose.lines().filter_map(|line| line.strip_prefix('#'));
    let anchor = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// Words in backquotes, with their lines.
fn quoted(prose: &str) -> Vec<(usize, &str)> {
    let lines = (1..).zip(prose.lines());
    lines.flat_map(|(line, text)| text.split('`').skip(1).step_by(2).map(move |word| (line, word))).collect()
}

#[test]
fn links_of_each_document_lead_to_files_and_headings_that_exist() {
    let mut broken = Vec::new();
    for (path, text) in documents() {
        for Link { line, target, .. } in links(&prose(&text)) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file =
                if file.is_empty() { path.clone() } else { path.parent().expect("a directory").join(file) };
            let is_there = file.exists()
                && (anchor.is_empty()
                    || anchors(&fs::read_to_string(&file).expect("readable")).contains(anchor));
            if !is_there {
                broken.push(format!("{}:{line}: {target}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn names_that_link_to_a_source_file_are_found_in_it() {
    let mut missing = Vec::new();
    for (path, text) in documents() {
        for Link { line, text: name, target } in links(&prose(&text)) {
            let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) else { continue };
            if !target.ends_with(".rs") || name.ends_with(".rs") || name.contains(['/', ' ']) {
                continue;
            }
            let file = path.parent().expect("a directory").join(target);
            let name = name.rsplit("::").next().expect("split gives a part");
            let source = fs::read_to_string(&file).unwrap_or_default();
            let is_word = |word: &str| word == name;
            if !source.split(|c: char| !c.is_alphanumeric() && c != '_').any(is_word) {
                missing.push(format!("{}:{line}: {name} is not in {target}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "names that their files do not know:\n{}", missing.join("\n"));
}

#[test]
fn tests_that_documents_name_exist() {
    let (mut sources, mut scripts) = (Vec::new(), Vec::new());
    files_below(&root().join("src"), ".rs", &mut sources);
    files_below(&root().join("tests"), ".rs", &mut sources);
    files_below(&root().join("src/raft/testscripts"), "", &mut scripts);
    let sources: Vec<String> =
        sources.iter().map(|path| fs::read_to_string(path).expect("readable")).collect();
    let is_script = |name: &str| scripts.iter().any(|path| path.ends_with(name));
    let is_function = |name: &str| sources.iter().any(|source| source.contains(&format!("fn {name}(")));
    let mut missing = Vec::new();
    for (path, text) in documents() {
        for (line, word) in quoted(&prose(&text)) {
            // Only the name of a test, which is a sentence, has so many words.
            let is_test = word.matches('_').count() >= 4
                && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if is_test && !is_function(word) && !is_script(word) {
                missing.push(format!("{}:{line}: {word}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "tests that do not exist:\n{}", missing.join("\n"));
}
