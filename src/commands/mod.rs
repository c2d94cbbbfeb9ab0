//! What a person types: one file a command, thin glue over `kaleid::pipeline`.
