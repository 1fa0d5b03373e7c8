"""Linen modules, and a `build_*` for each kind; none of them sees a config."""
