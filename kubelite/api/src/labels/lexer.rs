//! Cuts the text of a label selector into tokens.

/// A token; `In` and `NotIn` are identifiers where a key or a value is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Identifier(String),
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    Not,
    Open,
    Close,
    Comma,
    End,
    /// Something like `=>`, with the sentence about it.
    Bad(String),
}

impl Token {
    /// As errors quote it.
    pub(super) fn literal(&self) -> &str {
        match self {
            Token::Identifier(text) | Token::Bad(text) => text,
            Token::In => "in",
            Token::NotIn => "notin",
            Token::Equals => "=",
            Token::DoubleEquals => "==",
            Token::NotEquals => "!=",
            Token::Greater => ">",
            Token::Less => "<",
            Token::Not => "!",
            Token::Open => "(",
            Token::Close => ")",
            Token::Comma => ",",
            Token::End => "",
        }
    }

    /// The token as it reads where a key or a value is expected.
    pub(super) fn into_value(self) -> Token {
        match self {
            Token::In | Token::NotIn => Token::Identifier(self.literal().to_owned()),
            other => other,
        }
    }
}

fn is_special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

/// All tokens, the last one being `End`.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let (mut found, mut rest) = (Vec::new(), text.trim_start());
    while let Some(first) = rest.chars().next() {
        let (token, length) = if is_special(first) { symbol(rest) } else { word(rest) };
        found.push(token);
        rest = rest[length..].trim_start();
    }
    found.push(Token::End);
    found
}

/// The longest symbol at the start of `text`, and its length.
fn symbol(text: &str) -> (Token, usize) {
    const SYMBOLS: [(&str, Token); 9] = [
        ("==", Token::DoubleEquals),
        ("!=", Token::NotEquals),
        ("=", Token::Equals),
        ("!", Token::Not),
        ("(", Token::Open),
        (")", Token::Close),
        (",", Token::Comma),
        (">", Token::Greater),
        ("<", Token::Less),
    ];
    for (literal, token) in SYMBOLS {
        if text.starts_with(literal) {
            return (token, literal.len());
        }
    }
    (Token::Bad(format!("error expected: keyword found '{text}'")), text.len())
}

fn word(text: &str) -> (Token, usize) {
    let end = text.find(|c: char| is_special(c) || c.is_whitespace()).unwrap_or(text.len());
    let token = match &text[..end] {
        "in" => Token::In,
        "notin" => Token::NotIn,
        other => Token::Identifier(other.to_owned()),
    };
    (token, end)
}
