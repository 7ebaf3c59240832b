"""Pages for people, made from files on disk only."""
