"""Records: what finished experiments leave behind in the repository, as small JSON files without weights."""
