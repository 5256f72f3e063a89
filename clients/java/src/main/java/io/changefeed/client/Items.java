package io.changefeed.client;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadConstraints;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.cfg.JsonNodeFeature;
import com.fasterxml.jackson.databind.json.JsonMapper;

/** Reads the JSON text of items, such as {@code ChangeEvent.new_item_json}, without losing digits. */
public final class Items {
    /** PostgreSQL's numeric has at most 147,455; Jackson's own limit is 1,000. */
    private static final int MOST_DIGITS = 200_000;

    private static final ObjectMapper MAPPER = JsonMapper.builder(JsonFactory.builder()
                    .streamReadConstraints(StreamReadConstraints.builder()
                            .maxNumberLength(MOST_DIGITS)
                            .build())
                    .enable(StreamReadFeature.USE_FAST_BIG_NUMBER_PARSER)
                    .build())
            .enable(DeserializationFeature.USE_BIG_DECIMAL_FOR_FLOATS, DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
            .disable(JsonNodeFeature.STRIP_TRAILING_BIGDECIMAL_ZEROES)
            .build();

    private Items() {}

    /**
     * One value of JSON; its numbers are int, long, BigInteger or BigDecimal, with every digit, and its
     * {@code toString()} is JSON again. It may be a thousand levels deep.
     *
     * @throws JsonProcessingException if the text is not one value of JSON
     */
    public static JsonNode parse(String text) throws JsonProcessingException {
        return MAPPER.readValue(text, JsonNode.class);
    }
}
