"""Reports as PDF, by WeasyPrint, which has to be installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fasr_video.errors import EnvironmentFailure, MissingExtra


def find_weasyprint() -> Any:
    """Return the package; raise an error that says what is missing."""
    try:
        import weasyprint
    except ImportError as error:
        raise MissingExtra("weasyprint", "report", "a PDF report") from error
    except OSError as error:
        remedy = "run: apt-get install libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0"
        raise EnvironmentFailure(
            "weasyprint", f"a system library is missing ({error})", remedy
        ) from error
    return weasyprint


def write_pdf(html: str, path: Path) -> None:
    weasyprint = find_weasyprint()
    # Pictures are data URIs in the page, sized by their attributes. Nothing is fetched.
    fetcher = weasyprint.URLFetcher(allowed_protocols=("data",))
    weasyprint.HTML(string=html, url_fetcher=fetcher).write_pdf(path, presentational_hints=True)
