//! Reads the tokens of a label selector: requirements separated by commas.

use std::collections::BTreeSet;

use super::lexer::{Token, tokens};
use super::{LabelSelectorError, Operator, Requirement};

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
}

type Parsed<T> = Result<T, LabelSelectorError>;

fn fail<T>(text: String) -> Parsed<T> {
    Err(LabelSelectorError(text))
}

/// All requirements of a selector, in the order of the text.
pub(super) fn parse(text: &str) -> Parsed<Vec<Requirement>> {
    let mut parser = Parser { tokens: tokens(text).into_iter().peekable() };
    let mut found = Vec::new();
    loop {
        match parser.peek() {
            Token::End => return Ok(found),
            Token::Identifier(_) | Token::Not => {}
            other => {
                return fail(format!(
                    "found '{}', expected: !, identifier, or 'end of string'",
                    other.literal()
                ));
            }
        }
        let requirement = parser.requirement();
        found.push(requirement.map_err(|e| LabelSelectorError(format!("unable to parse requirement: {e}")))?);
        match parser.next() {
            Token::End => return Ok(found),
            Token::Comma => match parser.peek() {
                Token::Identifier(_) | Token::Not => {}
                other => return fail(format!("found '{}', expected: identifier after ','", other.literal())),
            },
            other => return fail(format!("found '{}', expected: ',' or 'end of string'", other.literal())),
        }
    }
}

impl Parser {
    fn peek(&mut self) -> Token {
        self.tokens.peek().cloned().unwrap_or(Token::End).into_value()
    }

    fn next(&mut self) -> Token {
        self.tokens.next().unwrap_or(Token::End).into_value()
    }

    fn requirement(&mut self) -> Parsed<Requirement> {
        let mut first = self.next();
        let negated = first == Token::Not;
        if negated {
            first = self.next();
        }
        let Token::Identifier(key) = first else {
            return fail(format!("found '{}', expected: identifier", first.literal()));
        };
        if negated {
            // Whatever follows is judged by the caller, who expects a comma or the end.
            return Requirement::new(&key, Operator::DoesNotExist, BTreeSet::new());
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Requirement::new(&key, Operator::Exists, BTreeSet::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.list()?,
            _ => self.single()?,
        };
        Requirement::new(&key, operator, values)
    }

    fn operator(&mut self) -> Parsed<Operator> {
        match self.tokens.next().unwrap_or(Token::End) {
            Token::In => Ok(Operator::In),
            Token::NotIn => Ok(Operator::NotIn),
            Token::Equals | Token::DoubleEquals => Ok(Operator::Equals),
            Token::NotEquals => Ok(Operator::NotEquals),
            Token::Greater => Ok(Operator::GreaterThan),
            Token::Less => Ok(Operator::LessThan),
            other => fail(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.literal())),
        }
    }

    fn single(&mut self) -> Parsed<BTreeSet<String>> {
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Ok([String::new()].into());
        }
        match self.next() {
            Token::Identifier(value) => Ok([value].into()),
            other => fail(format!("found '{}', expected: identifier", other.literal())),
        }
    }

    /// `(a,b)`; nothing between two commas or parentheses is the empty value.
    fn list(&mut self) -> Parsed<BTreeSet<String>> {
        let open = self.next();
        if open != Token::Open {
            return fail(format!("found '{}' expected: '('", open.literal()));
        }
        let mut values = BTreeSet::new();
        loop {
            match self.peek() {
                Token::Identifier(value) => {
                    self.next();
                    values.insert(value);
                }
                Token::Comma | Token::Close => {
                    values.insert(String::new());
                }
                other => {
                    return fail(format!("found '{}', expected: ',', ')' or identifier", other.literal()));
                }
            }
            match self.next() {
                Token::Close => return Ok(values),
                Token::Comma => {}
                other => return fail(format!("found '{}', expected: ',' or ')'", other.literal())),
            }
        }
    }
}
