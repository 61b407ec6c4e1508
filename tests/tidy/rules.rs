//! The rules, each a function from one file to what breaks it there.

use super::source::{Path, Source, Token, is_word, item_end, matches};
use super::{ARROWS, Finding, PLACES, Place};

/// A rule about one file.
pub(super) type Rule = fn(&Source) -> Vec<Finding>;

/// All of them.
pub(super) const RULES: [Rule; 13] = [
    arrows_point_down,
    things_stay_in_their_places,
    clock_is_read_in_its_place,
    randomness_comes_from_a_seed,
    unordered_maps_are_never_iterated,
    nothing_is_unsafe,
    nothing_is_left_for_later,
    nothing_is_printed_by_the_library,
    functions_fit_on_a_screen,
    files_have_one_subject,
    structs_have_few_fields,
    files_are_named_for_a_subject,
    types_are_named_for_a_subject,
];

const MAX_FUNCTION_LINES: usize = 70;
const MAX_FILE_LINES: usize = 500;
const MAX_STRUCT_FIELDS: usize = 12;

fn arrows_point_down(source: &Source) -> Vec<Finding> {
    let Some(layer) = source.layer() else { return vec![] };
    let Some((_, below)) = ARROWS.iter().find(|(from, _)| *from == layer) else {
        let rule = format!("`{layer}` is no layer");
        return vec![source.finding(1, &rule, "put the file into a layer, or draw its arrows in tests/tidy")];
    };
    let allowed = |path: &Path| {
        let target = path.segments.get(1).map_or("", String::as_str);
        layer.split('/').next() == Some(target)
            || below.contains(&target)
            || below.iter().any(|exact| *exact == path.segments[1..].join("::"))
    };
    let paths = source.paths().into_iter().filter(|path| path.segments[0] == "crate");
    let wrong = paths.filter(|path| !allowed(path));
    let finding = |path: Path| {
        let rule = format!("`{layer}` may not see `{}`", path.segments.join("::"));
        source.finding(
            path.line,
            &rule,
            "imports go down only, sisters never meet: move the code up, or pass a value in",
        )
    };
    wrong.map(finding).collect()
}

fn things_stay_in_their_places(source: &Source) -> Vec<Finding> {
    let paths: Vec<Path> = source.paths().into_iter().filter(|path| !path.test).collect();
    let misplaced = |place: &Place| {
        let home = place.homes.iter().any(|home| source.path.starts_with(home));
        let finding = |path: &Path| {
            let rule = format!("`{}` has no place here", path.segments.join("::"));
            source.finding(path.line, &rule, place.cure)
        };
        let named = paths.iter().filter(|path| !home && names(path, place.what));
        named.map(finding).collect::<Vec<_>>()
    };
    PLACES.iter().flat_map(misplaced).collect()
}

/// Whether `path` leads to `what`, into it, or imports something that opens onto it.
fn names(path: &Path, what: &str) -> bool {
    let what: Vec<&str> = what.split("::").collect();
    let shared = path.segments.iter().zip(&what).take_while(|(segment, what)| segment == what).count();
    let glob = path.segments.get(shared).is_some_and(|segment| segment == "*");
    let opens = path.imported && shared > 0 && shared + 1 == what.len();
    shared == what.len() || (glob && shared > 0) || (opens && path.segments.len() == shared)
}

fn clock_is_read_in_its_place(source: &Source) -> Vec<Finding> {
    let homes = ["src/time.rs", "src/client/", "src/bin/"];
    if homes.iter().any(|home| source.path.starts_with(home)) {
        return vec![];
    }
    let reads = source.production_sequences(&["Instant", "::", "now"]);
    let finding = |line| source.finding(line, "the clock is read here", "take `now` as an argument");
    reads.into_iter().map(finding).collect()
}

fn randomness_comes_from_a_seed(source: &Source) -> Vec<Finding> {
    // Programs draw their seeds, and so does the blocking client, for the pure session inside it.
    if source.path.starts_with("src/bin/") || source.path == "src/client/mod.rs" {
        return vec![];
    }
    let words = ["thread_rng", "ThreadRng", "OsRng", "SysRng", "from_os_rng", "from_entropy", "RandomState"];
    let found = source.tokens.iter().filter(|token| words.contains(&token.text.as_str()));
    let mut lines: Vec<usize> = found.map(|token| token.line).collect();
    let paths = ["rand::rng", "rand::random", "rand::make_rng"];
    let named = |path: &&Path| paths.iter().any(|what| path.segments.join("::") == *what);
    lines.extend(source.paths().iter().filter(named).map(|path| path.line));
    let finding =
        |line| source.finding(line, "randomness without a seed", "take a seed or a generator as an argument");
    lines.into_iter().map(finding).collect()
}

fn unordered_maps_are_never_iterated(source: &Source) -> Vec<Finding> {
    let deterministic = ["raft", "kv", "replica"];
    if !source.layer().is_some_and(|layer| deterministic.contains(&layer.as_str())) {
        return vec![];
    }
    let maps = source.tokens.iter().filter(|t| !t.test && matches!(t.text.as_str(), "HashMap" | "HashSet"));
    let unmarked = maps.filter(|map| !source.lines[map.line - 1].contains("// never iterated"));
    let finding = |map: &Token| {
        let rule = format!("a {} in a deterministic layer", map.text);
        source.finding(
            map.line,
            &rule,
            "take a BTreeMap, or write `// never iterated` on the line and keep to it",
        )
    };
    unmarked.map(finding).collect()
}

fn nothing_is_unsafe(source: &Source) -> Vec<Finding> {
    let found = source.sequences(&["unsafe"]);
    found.into_iter().map(|line| source.finding(line, "unsafe code", "write it in safe Rust")).collect()
}

fn nothing_is_left_for_later(source: &Source) -> Vec<Finding> {
    let marks: [&[&str]; 5] =
        [&["todo", "!"], &["unimplemented", "!"], &["dbg", "!"], &["#", "[", "ignore"], &["dead_code"]];
    let finding = |mark: &[&str]| {
        let rule = format!("`{}` is left for later", mark.concat());
        let cure = "finish it, or take it out";
        source.sequences(mark).into_iter().map(|line| source.finding(line, &rule, cure)).collect::<Vec<_>>()
    };
    marks.into_iter().flat_map(finding).collect()
}

fn nothing_is_printed_by_the_library(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with("src/") || source.path.starts_with("src/bin/") {
        return vec![];
    }
    let macros = ["print", "println", "eprint", "eprintln"];
    let finding = |name| {
        let lines = source.production_sequences(&[name, "!"]);
        let cure = "log it with `log`, or give it back to the caller";
        lines.into_iter().map(|line| source.finding(line, "the library prints", cure)).collect::<Vec<_>>()
    };
    macros.into_iter().flat_map(finding).collect()
}

fn functions_fit_on_a_screen(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, pair) in source.tokens.windows(2).enumerate() {
        if pair[0].text != "fn" || !is_word(&pair[1].text) {
            continue;
        }
        let end = &source.tokens[item_end(&source.tokens, at) - 1];
        let lines = end.line - pair[0].line + 1;
        if lines > MAX_FUNCTION_LINES {
            let rule =
                format!("fn {} has {lines} lines, at most {MAX_FUNCTION_LINES} are allowed", pair[1].text);
            findings.push(source.finding(pair[0].line, &rule, "name its parts and make them functions"));
        }
    }
    findings
}

fn files_have_one_subject(source: &Source) -> Vec<Finding> {
    let lines = source.lines_before_tests();
    if lines <= MAX_FILE_LINES {
        return vec![];
    }
    let rule = format!("{lines} lines apart from tests, at most {MAX_FILE_LINES} are allowed");
    vec![source.finding(1, &rule, "split the file by subject")]
}

fn structs_have_few_fields(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, pair) in source.tokens.windows(2).enumerate() {
        if pair[0].text != "struct" || !is_word(&pair[1].text) {
            continue;
        }
        let fields = fields(&source.tokens[at..item_end(&source.tokens, at)]);
        if fields > MAX_STRUCT_FIELDS {
            let rule = format!(
                "struct {} has {fields} fields, at most {MAX_STRUCT_FIELDS} are allowed",
                pair[1].text
            );
            findings.push(source.finding(
                pair[0].line,
                &rule,
                "give what belongs together a struct of its own",
            ));
        }
    }
    findings
}

/// The named fields of a struct: the single colons directly inside its braces.
fn fields(item: &[Token]) -> usize {
    let (mut inside, mut fields) = (0_usize, 0);
    let body = item.iter().skip_while(|token| token.text != "{").skip(1);
    for token in body {
        match token.text.as_str() {
            "(" | "[" | "{" => inside += 1,
            ")" | "]" | "}" => inside = inside.saturating_sub(1),
            ":" if inside == 0 => fields += 1,
            _ => {}
        }
    }
    fields
}

fn files_are_named_for_a_subject(source: &Source) -> Vec<Finding> {
    let empty = |part: &str| ["util", "helper", "manager"].iter().any(|word| part.contains(word));
    if source.path.split('/').any(empty) {
        return vec![source.finding(1, "a name that says nothing", "name the file for what it is about")];
    }
    vec![]
}

fn types_are_named_for_a_subject(source: &Source) -> Vec<Finding> {
    let declared = source.tokens.windows(2).filter(|pair| {
        let empty = ["Utils", "Util", "Helper", "Manager", "Handler"];
        let item = matches!(pair[0].text.as_str(), "struct" | "enum" | "trait" | "type");
        item && empty.iter().any(|word| pair[1].text.ends_with(word))
    });
    let finding = |pair: &[Token]| {
        let rule = format!("the name {} says nothing", pair[1].text);
        source.finding(pair[1].line, &rule, "name the type for what it is")
    };
    declared.map(finding).collect()
}

/// Every dependency says why it is there.
pub(super) fn dependencies_have_reasons(path: &str, manifest: &str) -> Vec<Finding> {
    let (mut findings, mut section, mut reason) = (Vec::new(), String::new(), false);
    for (number, line) in manifest.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
        let header = line.starts_with('[');
        if header {
            section = line.trim_matches(['[', ']']).to_owned();
        }
        let listed =
            section.ends_with("dependencies") && line.contains('=') && !line.starts_with('#') && !header;
        let own_table = header && section.contains("dependencies.");
        if (listed || own_table) && !reason {
            let (rule, cure) = ("a dependency without a reason", "write above it why it is there");
            findings.push(Finding { path: path.to_owned(), line: number, rule: rule.to_owned(), cure });
        }
        reason = line.starts_with('#');
    }
    findings
}

impl Source {
    fn finding(&self, line: usize, rule: &str, cure: &'static str) -> Finding {
        Finding { path: self.path.clone(), line, rule: rule.to_owned(), cure }
    }

    /// The lines on which these tokens stand in a row.
    fn sequences(&self, texts: &[&str]) -> Vec<usize> {
        let places = (0..self.tokens.len()).filter(|at| matches(&self.tokens[*at..], texts));
        places.map(|at| self.tokens[at].line).collect()
    }

    /// The same, apart from tests.
    fn production_sequences(&self, texts: &[&str]) -> Vec<usize> {
        let places = (0..self.tokens.len()).filter(|at| matches(&self.tokens[*at..], texts));
        places.filter(|at| !self.tokens[*at].test).map(|at| self.tokens[at].line).collect()
    }

    /// Lines of the file without its tests: items under `#[cfg(test)]` in `src`; elsewhere
    /// everything from the first test on.
    fn lines_before_tests(&self) -> usize {
        if self.tokens.iter().all(|token| token.test) {
            let first = (0..self.tokens.len()).find(|at| {
                let rest = &self.tokens[*at..];
                matches(rest, &["#", "[", "test", "]"]) || matches(rest, &["proptest", "!"])
            });
            return first.map_or(self.lines.len(), |at| self.tokens[at].line - 1);
        }
        let mut lines = self.lines.len();
        for group in self.tokens.chunk_by(|a, b| a.test == b.test).filter(|group| group[0].test) {
            lines -= group[group.len() - 1].line - group[0].line + 1;
        }
        lines
    }
}
