"""A vocabulary as files hold it, and the added tokens that other people's files bring. Encodes nothing by itself."""
