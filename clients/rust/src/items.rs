//! Items as their JSON text says them.

/// Reads the JSON text of an item, such as [`crate::messages::ChangeEvent::new_item_json`], without losing digits: a
/// [`serde_json::Number`] is its text, and writing the value writes it again. To read a number into
/// an `i64`, an `f64` or a decimal is the caller's choice; an `f64` rounds.
pub fn parse_item(text: &str) -> Result<serde_json::Value, serde_json::Error> {
    serde_json::from_str(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_digit_stays() {
        for text in ["9007199254740993", "-0.10", "1.7976931348623159e+400", "123456789012345678901234567890.12345"] {
            assert_eq!(parse_item(text).expect("a number").to_string(), text);
        }
    }

    #[test]
    fn items_are_one_value_of_json() {
        for text in ["", "{", "1 2"] {
            assert!(parse_item(text).is_err(), "{text:?} was read");
        }
    }
}
