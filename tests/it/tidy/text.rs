//! Searches Rust code as text: replaces comments and literals by blanks, and finds words, functions and imported paths.
//! This is enough for the rules of `tidy`, and it compiles faster than a Rust parser.

/// Returns the paths at the beginning of `code`. It is one path, or several if a part of it is a group such as `{a,
/// b}`.
pub(super) fn paths(code: &str) -> Vec<Vec<String>> {
    let mut path = Vec::new();
    let mut rest = code.trim_start();
    loop {
        let name: String = rest.chars().take_while(|character| is_word(*character)).collect();
        if name.is_empty() {
            break;
        }
        rest = &rest[name.len()..];
        path.push(name);
        let Some(next) = rest.strip_prefix("::") else {
            return vec![path];
        };
        rest = next;
    }
    let Some(group) = rest.strip_prefix('{') else {
        return vec![path];
    };
    members(group)
        .into_iter()
        .flat_map(paths)
        .filter(|member| !member.is_empty())
        .map(|member| path.iter().cloned().chain(member).collect())
        .collect()
}

/// Returns the members of a group. `group` is the code after the opening brace.
fn members(group: &str) -> Vec<&str> {
    let mut members = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                members.push(&group[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                members.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    members
}

/// Returns the code without its inline test modules. The line numbers of the code after such a module change.
pub(super) fn without_inline_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        let (before, from) = rest.split_at(at);
        kept.push_str(before);
        // Skip the item with this attribute. It ends with the closing brace of its body, or with a semicolon if it has
        // no body.
        let mut depth = 0;
        let end = from.char_indices().find_map(|(at, character)| {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            let ends = depth == 0 && (character == '}' || character == ';');
            ends.then_some(at + 1)
        });
        rest = end.map_or("", |end| &from[end..]);
    }
    kept.push_str(rest);
    kept
}

/// Returns every function that has a body: its offset in bytes, its name, and its number of lines.
pub(super) fn functions(code: &str) -> impl Iterator<Item = (usize, String, usize)> {
    words(code, "fn ").filter_map(|at| {
        let rest = &code[at..];
        let name: String = rest[3..]
            .chars()
            .take_while(|character| is_word(*character))
            .collect();
        let mut depth = 0;
        let mut body = None;
        for (offset, character) in rest.char_indices() {
            match character {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth -= 1,
                ';' if depth == 0 => return None,
                _ => {}
            }
            if character == '{' && depth == 1 {
                body = Some(offset);
            }
            if character == '}' && depth == 0 && body.is_some() {
                return Some((at, name, rest[..=offset].lines().count()));
            }
        }
        None
    })
}

/// Returns the offsets at which `text` contains `word`, in bytes. Does not count `word` as a part of a longer word or
/// path.
pub(super) fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> {
    let part = |character: char| is_word(character) || character == '.';
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = text[..*at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        let open_ended = word.ends_with(|last| !is_word(last));
        !(word.starts_with(|first| is_word(first) || first == '/') && before.is_some_and(part))
            && (open_ended || !after.is_some_and(is_word))
    })
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Returns the path and the line number of the offset `at`, as `path:line`.
pub(super) fn location(path: &str, code: &str, at: usize) -> String {
    format!("{path}:{}", code[..at].matches('\n').count() + 1)
}

/// Returns the code with blanks instead of every comment, string literal and character literal. Line numbers do not
/// change.
pub(super) fn blanked(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = literal_length(&code, rest);
        let (literal, after) = rest.split_at(length.unwrap_or(first.len_utf8()).min(rest.len()));
        let blank = |character| {
            if length.is_none() || character == '\n' {
                character
            } else {
                ' '
            }
        };
        code.extend(literal.chars().map(blank));
        rest = after;
    }
    code
}

/// Returns the length in bytes of the comment or literal with which `rest` begins; `None` if `rest` begins with other
/// code. `code` is the code before `rest`.
fn literal_length(code: &str, rest: &str) -> Option<usize> {
    let until = |from: usize, end: &str| {
        rest[from..]
            .find(end)
            .map_or(rest.len(), |at| from + at + end.len())
    };
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(until(2, "*/"));
    }
    if let Some(inside) = rest.strip_prefix('"') {
        let before = code.trim_end_matches('#');
        if before.ends_with('r') {
            return Some(until(1, &format!("\"{}", "#".repeat(code.len() - before.len()))));
        }
        let mut escaped = false;
        let end = inside.find(|character| {
            let ends = character == '"' && !escaped;
            escaped = character == '\\' && !escaped;
            ends
        });
        return Some(end.map_or(rest.len(), |end| end + 2));
    }
    let mut characters = rest.strip_prefix('\'')?.char_indices();
    match (characters.next()?.1, characters.next()?) {
        ('\\', (at, escaped)) => Some(until(1 + at + escaped.len_utf8(), "'")),
        (_, (at, '\'')) => Some(at + 2),
        _ => None, // a lifetime
    }
}
