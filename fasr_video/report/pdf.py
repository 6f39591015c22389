"""A report as PDF, by WeasyPrint, which has to be installed for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fasr_video.errors import EnvironmentFailure, MissingExtra


def find_weasyprint() -> Any:
    """The package, or one line that says what is missing."""
    try:
        import weasyprint
    except ImportError as error:
        raise MissingExtra("weasyprint", "report", "a PDF report") from error
    except OSError as error:
        remedy = "run: apt-get install libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0"
        raise EnvironmentFailure(
            "weasyprint", f"a library of the system is missing ({error})", remedy
        ) from error
    return weasyprint


def write_pdf(html: str, path: Path) -> None:
    weasyprint = find_weasyprint()
    # Pictures are in the page, and as large as their attributes say; nothing else is fetched.
    fetcher = weasyprint.URLFetcher(allowed_protocols=("data",))
    weasyprint.HTML(string=html, url_fetcher=fetcher).write_pdf(path, presentational_hints=True)
