package changefeed

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// DecodeItem reads the JSON text of an item, such as ChangeEvent.NewItemJson, into a pointer without losing digits: a
// number that goes into an any becomes a json.Number, which is its text. Fields of a struct may be json.Number, int64
// or a decimal type that unmarshals itself; a float64 rounds.
func DecodeItem(text string, into any) error {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	return nil
}
