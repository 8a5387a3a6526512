//! Derives dimensions, facts, bridges and roll-ups from events, by declaration.
