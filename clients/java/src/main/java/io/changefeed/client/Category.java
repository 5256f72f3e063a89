package io.changefeed.client;

/** The portable kinds of failure, for branching. */
public enum Category {
    INVALID_REQUEST,
    CHECKPOINT_EXPIRED,
    UNSUPPORTED_CAPABILITY,
    NOT_FOUND,
    AUTHENTICATION_FAILED,
    AUTHORIZATION_FAILED,
    THROTTLED,
    TRANSIENT_FAILURE,
    PROVIDER_ERROR,
    INTERNAL,
    /** One of a later contract; {@link ChangeFeedException#categoryName} has its name. */
    UNRECOGNIZED;

    static Category of(String name) {
        for (Category category : values()) {
            if (category.name().equals(name)) {
                return category;
            }
        }
        return UNRECOGNIZED;
    }
}
