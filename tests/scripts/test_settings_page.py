"""The generated page of all settings."""

from scripts.settings_page import PAGE, settings_page


def test_the_settings_page_is_current() -> None:
    assert PAGE.read_text() == settings_page(), "docs/settings.md is stale: run `python -m scripts.settings_page`"
