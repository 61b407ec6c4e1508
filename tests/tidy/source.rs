//! Rust source as far as the rules need it: tokens with their lines, which of them are test code,
//! and the paths that they name. No parser: the rules are about words and paths, and rustfmt and
//! rustc have seen to the rest.

/// One file, cut into tokens.
pub(super) struct Source {
    /// Its path from the package's root, such as `src/wire/mod.rs`.
    pub(super) path: String,
    /// Its lines as they stand, for rules about comments.
    pub(super) lines: Vec<String>,
    pub(super) tokens: Vec<Token>,
}

/// A word, a number, or a sign (`::` is one sign). Comments are left out; of a literal only a
/// quote is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    /// Counted from 1.
    pub(super) line: usize,
    /// Whether it belongs to an item under `#[cfg(test)]`, or stands in a file of tests.
    pub(super) test: bool,
}

/// A path that some code names, as far as it goes: `crate` first if it leads into this crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
    pub(super) test: bool,
    /// Whether a `use` names it, so that code below may begin where it ends.
    pub(super) imported: bool,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let mut tokens = tokenize(text);
        let all_test = !path.starts_with("src/");
        mark_tests(&mut tokens, all_test);
        Self { path: path.to_owned(), lines: text.lines().map(str::to_owned).collect(), tokens }
    }

    /// The files that this one declares with `#[cfg(test)] mod name;`, as path prefixes.
    pub(super) fn test_modules(&self) -> Vec<String> {
        let declared = self.tokens.windows(3).filter(|window| {
            window[0].test && window[0].text == "mod" && window[2].text == ";" && is_word(&window[1].text)
        });
        declared.map(|window| format!("{}/{}", self.module_directory(), window[1].text)).collect()
    }

    pub(super) fn mark_all_as_test(&mut self) {
        self.tokens.iter_mut().for_each(|token| token.test = true);
    }

    /// The layer that the file belongs to: the first module under the crate's root, or the
    /// binary's name. None for the root itself and outside `src`.
    pub(super) fn layer(&self) -> Option<String> {
        let module = self.module();
        match module.as_slice() {
            [bin, name, ..] if bin == "bin" => Some(format!("bin/{name}")),
            [layer, ..] => Some(layer.clone()),
            [] => None,
        }
    }

    /// The module that the file is, from the crate's root down.
    pub(super) fn module(&self) -> Vec<String> {
        let Some(path) = self.path.strip_prefix("src/") else { return vec![] };
        let path = path.trim_end_matches(".rs").trim_end_matches("/mod").trim_end_matches("/main");
        if path == "lib" { vec![] } else { path.split('/').map(str::to_owned).collect() }
    }

    /// Where the modules that this file declares are found.
    fn module_directory(&self) -> &str {
        let stem = self.path.trim_end_matches(".rs");
        let own = ["/mod", "/main", "/lib"].into_iter().find_map(|root| stem.strip_suffix(root));
        own.unwrap_or(stem)
    }

    /// Every path of two segments or more, and every import, resolved as far as `crate`, `self`,
    /// `super` and this crate's own name go.
    pub(super) fn paths(&self) -> Vec<Path> {
        let tokens = &self.tokens;
        let mut modules = Modules { file: self.module(), depth: 0, inline: Vec::new() };
        let (mut paths, mut at) = (Vec::new(), 0);
        while at < tokens.len() {
            modules.follow(&tokens[at..]);
            let start = at;
            let mut named = Vec::new();
            at = if is_use(&tokens[at..]) {
                use_tree(tokens, at + 1, &[], &mut named)
            } else {
                inline_path(tokens, at, &mut named)
            };
            let Token { line, test, ref text } = tokens[start];
            let imported = text == "use";
            paths.extend(named.into_iter().map(|segments| Path {
                segments: modules.resolve(segments),
                line,
                test,
                imported,
            }));
        }
        paths
    }
}

/// Where in the tree of modules the tokens are that are being read.
struct Modules {
    file: Vec<String>,
    depth: usize,
    /// The modules opened in this file, each with the depth of braces inside it.
    inline: Vec<(usize, String)>,
}

impl Modules {
    fn follow(&mut self, tokens: &[Token]) {
        match tokens[0].text.as_str() {
            "{" => self.depth += 1,
            "}" => {
                self.depth = self.depth.saturating_sub(1);
                self.inline.retain(|(depth, _)| *depth <= self.depth);
            }
            "mod" if tokens.get(2).is_some_and(|token| token.text == "{") => {
                self.inline.push((self.depth + 1, tokens[1].text.clone()));
            }
            _ => {}
        }
    }

    /// In a binary, `crate` is the binary; the library is named `kvstore` there.
    fn resolve(&self, segments: Vec<String>) -> Vec<String> {
        let root = vec![String::from("crate")];
        let binary =
            if self.file.first().is_some_and(|first| first == "bin") { &self.file[..2] } else { &[] };
        let here = self.file.iter().chain(self.inline.iter().map(|(_, name)| name));
        let here: Vec<String> = here.cloned().collect();
        let selfs = usize::from(segments[0] == "self");
        let supers = segments[selfs..].iter().take_while(|segment| *segment == "super").count();
        match segments[0].as_str() {
            "crate" => [&root, binary, &segments[1..]].concat(),
            "kvstore" => [&root, &segments[1..]].concat(),
            "self" | "super" => {
                let parent = &here[..here.len().saturating_sub(supers)];
                [&root, parent, &segments[selfs + supers..]].concat()
            }
            _ => segments,
        }
    }
}

/// Whether a `use` declaration begins here (and not the `use<..>` of a return type).
fn is_use(tokens: &[Token]) -> bool {
    tokens[0].text == "use" && tokens.get(1).is_some_and(|next| next.text != "<")
}

/// Reads a use tree from `at` on; gives the place behind it.
fn use_tree(tokens: &[Token], mut at: usize, prefix: &[String], named: &mut Vec<Vec<String>>) -> usize {
    let (mut path, mut whole) = (prefix.to_vec(), false);
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "::" => {}
            "{" => {
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = use_tree(tokens, at + 1, &path, named);
                }
                return at + 1;
            }
            "as" => at += 1,
            "," | ";" | "}" => break,
            // `a::{self}` imports `a`.
            "self" if !path.is_empty() => whole = true,
            segment => path.push(segment.to_owned()),
        }
        at += 1;
    }
    if path.len() > prefix.len() || whole {
        named.push(path);
    }
    at
}

/// Reads a path in the midst of code, if one begins at `at`; gives the place behind it.
fn inline_path(tokens: &[Token], mut at: usize, named: &mut Vec<Vec<String>>) -> usize {
    if !is_word(&tokens[at].text) {
        return at + 1;
    }
    let mut path = vec![tokens[at].text.clone()];
    while let [_, colons, segment, ..] = &tokens[at..]
        && colons.text == "::"
        && is_word(&segment.text)
    {
        path.push(segment.text.clone());
        at += 2;
    }
    if path.len() > 1 {
        named.push(path);
    }
    at + 1
}

pub(super) fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn tokenize(text: &str) -> Vec<Token> {
    let (mut tokens, mut rest, mut line) = (Vec::new(), text, 1);
    while let Some(first) = rest.chars().next() {
        let (length, kept) = token(rest, first);
        if let Some(text) = kept {
            tokens.push(Token { text: text.to_owned(), line, test: false });
        }
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// How long the first token of `rest` is, and what of it is kept.
fn token(rest: &str, first: char) -> (usize, Option<&str>) {
    let word = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    if rest.starts_with("//") {
        (rest.find('\n').unwrap_or(rest.len()), None)
    } else if rest.starts_with("/*") {
        (block_comment(rest), None)
    } else if let Some(length) = string(rest) {
        (length, Some("\""))
    } else if first == '\'' {
        character_or_lifetime(rest)
    } else if rest.starts_with("::") {
        (2, Some("::"))
    } else if first.is_whitespace() {
        (first.len_utf8(), None)
    } else {
        let length = word(rest).max(first.len_utf8());
        (length, Some(&rest[..length]))
    }
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of the string literal that `text` begins with, if it does.
fn string(text: &str) -> Option<usize> {
    let prefix = text.find(|c| !matches!(c, 'b' | 'c' | 'r')).filter(|length| *length <= 2)?;
    let hashes = text[prefix..].bytes().take_while(|byte| *byte == b'#').count();
    let raw = text[..prefix].ends_with('r');
    let start = prefix + hashes;
    if !text[start..].starts_with('"') || (hashes > 0 && !raw) {
        return None;
    }
    let body = &text[start + 1..];
    if raw {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(start + 1 + body.find(&end).map_or(body.len(), |at| at + end.len()));
    }
    let mut escaped = false;
    let end = body.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    Some(start + 1 + end.map_or(body.len(), |at| at + 1))
}

fn character_or_lifetime(text: &str) -> (usize, Option<&str>) {
    let mut rest = text.char_indices().skip(1);
    let (_, first) = rest.next().unwrap_or((1, ' '));
    let second = rest.next();
    if first == '\\' {
        // The escaped character itself may be a quote.
        let from = second.map_or(text.len(), |(at, c)| at + c.len_utf8());
        return (text[from..].find('\'').map_or(text.len(), |at| from + at + 1), Some("\""));
    }
    match second {
        Some((at, '\'')) => (at + 1, Some("\"")),
        // A lifetime: its name comes as a word of its own, which no rule minds.
        _ => (1, Some("'")),
    }
}

/// Marks the items under `#[cfg(test)]`.
fn mark_tests(tokens: &mut [Token], all: bool) {
    const ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut at = 0;
    while at < tokens.len() {
        let attribute = matches(&tokens[at..], &ATTRIBUTE);
        let end = if attribute { item_end(tokens, at + ATTRIBUTE.len()) } else { at + 1 };
        tokens[at..end].iter_mut().for_each(|token| token.test = all || attribute);
        at = end;
    }
}

/// Whether the tokens begin with these texts.
pub(super) fn matches(tokens: &[Token], texts: &[&str]) -> bool {
    tokens.len() >= texts.len() && tokens.iter().zip(texts).all(|(token, text)| token.text == *text)
}

/// The place behind the item at `at`: behind its first semicolon or block outside parentheses.
pub(super) fn item_end(tokens: &[Token], at: usize) -> usize {
    let (mut inside, mut braces) = (0_usize, 0_usize);
    for (place, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "(" | "[" => inside += 1,
            ")" | "]" => inside = inside.saturating_sub(1),
            "{" => braces += 1,
            "}" => braces = braces.saturating_sub(1),
            _ => {}
        }
        let ends = matches!(token.text.as_str(), ";" | "}");
        if ends && inside == 0 && braces == 0 {
            return place + 1;
        }
    }
    tokens.len()
}
