"""What `run` and `show` print of a case, for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from fasr_video.actors import shown
from fasr_video.case.case import Case
from fasr_video.case.document import as_document, decided_subject, track_state
from fasr_video.console import clock, plain_throughout, say
from fasr_video.errors import ExitCode
from fasr_video.types import REASON_TEXT, Reason

# Of a kind that `show` prints: nobody reads more on a terminal, and laying out more takes long.
MOST = 200


def summary(
    folder: Path, worked: bool, seconds: float, as_json: bool, report: Path | None = None
) -> int:
    with Case.open(folder) as case:
        document = as_document(case)
    losses: dict[str, int] = {}
    for source in document["sources"]:
        for kind, count in source["losses"].items():
            losses[kind] = losses.get(kind, 0) + count
    code = ExitCode.LOSSES if any(losses.values()) else ExitCode.DONE
    tracks = document["tracks"]
    usable = sum(t["verdict"] == "usable" for t in tracks)
    no_faces = sum(track_state(t) == "not a face" for t in tracks)
    faces = sum(sum(s["faces_by_reason"].values()) for s in document["sources"])
    frames = sum(s["frames_looked_at"] for s in document["sources"])
    answers = {t["name"]: t["answer"] for t in tracks if t["answer"] is not None}
    leads = {name: a for name, a in answers.items() if a["verdict"] == "candidates"}
    bad = [p for p in document["gallery"] if p["problem"]]
    if as_json:
        result = {
            "event": "done",
            "case": str(folder),
            "frames": frames,
            "faces": faces,
            "tracks": len(tracks),
            "usable": usable,
            "not_a_face": no_faces,
            "links_proposed": len(document["links"]),
            "searched": len(answers),
            "with_candidates": len(leads),
            "unknown": len(answers) - len(leads),
            "photographs_left_out": len(bad),
            "losses": losses,
            "seconds": round(seconds, 2),
            "exit_code": int(code),
            "nothing_to_do": not worked,
            "report": None if report is None else str(report),
        }
        click.echo(json.dumps(result))
        return code
    state = "nothing left to do" if not worked else f"done in {seconds:.1f} s"
    say(f"{folder}: {state}")
    if not tracks:
        say(f"no face was seen long enough to be a track ({frames} frames, {faces} faces)")
    else:
        say(
            f"{frames} frames, {faces} faces, {len(tracks)} tracks: "
            f"{usable} usable, {len(tracks) - usable - no_faces} insufficient"
            + (f", {no_faces} not a face" if no_faces else "")
        )
    for kind, count in losses.items():
        if count:
            say(f"lost: {count} {kind.replace('_', ' ')}")
    _say_answers(document, leads, len(answers), bad)
    say(f"look at it: {f'{report}, or ' if report else ''}fasr-video show {folder}")
    return code


def _say_answers(
    document: dict[str, Any], leads: dict[str, Any], asked: int, bad: list[Any]
) -> None:
    waiting = [t["name"] for t in document["tracks"] if track_state(t) == "not searched"]
    searched = document["searched"]
    if searched is None:
        return
    if waiting:
        say(f"not searched for yet: {', '.join(waiting)}; give --gallery again")
    people = searched["gallery"]["people"]
    left_out = f", photographs left out: {len(bad)}" if bad else ""
    say(
        f"people in the gallery: {people}{left_out}; tracks with candidates: {len(leads)} of {asked}"
    )
    for name, answer in leads.items():
        first = next(c for c in answer["joined"] if c["passes"])
        mark = " (only the reconstruction says so)" if first["only_sr"] else ""
        outside = f" [{answer['remark']}]" if answer["remark"] else ""
        say(
            f"  {name}: candidate {first['subject']}, log10 likelihood ratio {_ratio(first)}{mark}{outside}"
        )
    for remark in searched["remarks"]:
        say(f"note: {remark}")
    last = next(
        x for x in reversed(document["log"]) if x["event"] in {"searched", "answers taken out"}
    )
    details = json.loads(last["details"])
    if last["event"] == "answers taken out":
        names = {t["id"]: t["name"] for t in document["tracks"]}
        told = ", ".join(names[track] for track in details["tracks"])
        say(
            f"note: the answers on {told} were taken out, for they were about probes of before ({details['why']})"
        )
    elif (anew := details["index_made_anew"]) not in {None, "there was none"}:
        say(f"note: the gallery's index was made anew from the store: {anew}")


def _ratio(candidate: dict[str, Any]) -> str:
    """With a mark where more could not be said by the data that was calibrated on."""
    ratio = candidate["log10_likelihood_ratio"]
    if ratio is None:
        return "not calibrated"
    bound = (
        ("at least " if ratio > 0 else "at most ") if candidate["at_bound_of_calibration"] else ""
    )
    return f"{bound}{ratio:+.1f}"


def show(document: dict[str, Any]) -> None:
    """Print a case. Of long lists the begin is shown, and it is said how many there are."""
    names = {t["id"]: t["name"] for t in document["tracks"]}
    counts = {what: len(document[what]) for what in ("tracks", "links", "gallery")}
    counts["clusters"] = max(map(len, document["clusters"].values()))
    document = document | {what: document[what][:MOST] for what in ("tracks", "links", "gallery")}
    document["clusters"] = {state: rows[:MOST] for state, rows in document["clusters"].items()}
    console, document = Console(), plain_throughout(document)
    if document["runs"]:
        console.print(_runs(document["runs"]))
    for source in document["sources"]:
        info = source["info"]
        console.print(
            f"[bold]{escape(source['path'])}[/]  sha256 {source['sha256'][:16]}…  \\[{source['state']}]",
            highlight=False,
        )
        console.print(
            f"  {info['width']}×{info['height']} {info['codec']} in {info['container'].split(',')[0]}, times from "
            f"{info['time_source']}, {info['colour']}, {source['frames_looked_at']} frames looked at",
            highlight=False,
        )
        if parts := source["frames_looked_at"] - source["frames_looked_at_whole"]:
            none = source["frames_not_looked_at"]
            told = f"{parts} of these only where a face can be (detect.every), {none} not at all"
            console.print(f"  [yellow]{told}[/]", highlight=False)
        detector = source["detector"]
        marks = (
            ""
            if detector["landmarks"]
            else " It finds no landmarks: faces are aligned by their boxes."
        )
        console.print(
            f"  detector {detector['name']}, {escape(detector['licence'])}.{marks}", highlight=False
        )
        for kind, count in source["losses"].items():
            if count:
                console.print(f"  [yellow]lost: {count} {kind.replace('_', ' ')}[/]")
        for reason, count in sorted(source["faces_by_reason"].items(), key=lambda r: -r[1]):
            console.print(f"  {count:6d} faces: {REASON_TEXT[Reason(reason)]}", highlight=False)
    if document["tracks"]:
        table = Table(
            "track",
            Column("from", no_wrap=True),
            Column("to", no_wrap=True),
            "seen",
            "eyes, px",
            "quality",
            "aux",
            "verdict",
            title="tracks",
        )
        for t in document["tracks"]:
            quality = t["shown"]["quality"] if t["shown"] else {}
            table.add_row(
                t["name"],
                clock(t["start_seconds"]),
                clock(t["end_seconds"]),
                str(t["sightings"]),
                f"{quality.get('eye_px', 0):.1f}",
                f"{quality.get('total', 0):.2f}",
                str(len(t["auxiliaries"])),
                _verdict(t),
            )
        console.print(table)
    if any(t["restoration"] for t in document["tracks"]):
        console.print(_reconstructions(document["tracks"]))
    for t in document["tracks"]:
        if t["answer"] is not None:
            console.print(_candidates(t, document["searched"]))
    if document["searched"] is not None:
        for remark in document["searched"]["remarks"]:
            console.print(f"[yellow]note: {escape(remark)}[/]", highlight=False)
    if document["links"]:
        table = Table(
            "link", "tracks", "score", "evidence", "state", title="perhaps the same person"
        )
        for link in document["links"]:
            pair = f"{names.get(link['a'], '?')} → {names.get(link['b'], '?')}"
            by = (
                f" by {shown(link['decided_by'], link['decided_as'])}" if link["decided_by"] else ""
            )
            table.add_row(
                str(link["id"]),
                pair,
                f"{link['score']:.3f} raw",
                link["evidence"],
                escape(link["state"] + by),
            )
        console.print(table)
    if any(document["clusters"].values()):
        console.print(_clusters(document["clusters"]))
    if any(t["decisions"] for t in document["tracks"]):
        console.print(_decisions(document["tracks"]))
    if document["gallery"]:
        table = Table("photograph", "subject", "state", title="gallery")
        for p in document["gallery"]:
            table.add_row(escape(p["path"]), escape(p["subject"]), escape(p["problem"] or "usable"))
        console.print(table)
    for what, count in counts.items():
        if count > MOST:
            told = f"{MOST} of {count} {what} are shown: --json, `fasr-video export` and the report have all"
            console.print(f"[yellow]{told}[/]", highlight=False)


def _verdict(track: dict[str, Any]) -> str:
    if track["verdict"] == "usable":
        return "usable"
    if track_state(track) == "not a face":
        evidence = track["evidence"]
        numbers = f"score {evidence['mean_score']:.3f}, norm {evidence['norm']:.2f}"
        return f"[yellow]not a face: {numbers}[/]"
    return f"[yellow]insufficient: {track['verdict_reason']}[/]"


def _runs(runs: list[dict[str, Any]]) -> Table:
    table = Table("begun", "ended", "what", "by", title="runs")
    for run in runs:
        ended = run["ended"][:19] if run["finished"] else "not finished"
        table.add_row(run["begun"][:19], ended, run["what"], escape(shown(run["by"], run["role"])))
    return table


def _reconstructions(tracks: list[dict[str, Any]]) -> Table:
    table = Table(
        "track",
        "method",
        "samples",
        "disagreement",
        "to know",
        title="reconstructions: synthetic, leads only",
    )
    for t in tracks:
        made = t["restoration"]
        if made is not None:
            samples = len(made["samples"])
            numbers = (str(samples), f"{made['disagreement']:.3f}") if samples > 1 else ("–", "–")
            table.add_row(
                t["name"],
                made["method"],
                *numbers,
                escape("; ".join([*_towards(made), *made["warnings"]])),
            )
    return table


def _towards(made: dict[str, Any]) -> list[str]:
    """What a guided picture was drawn towards."""
    told = [
        f"{a['name']}={'yes' if a['value'] else 'no'} ({a['source']})"
        for a in made.get("attributes", ())
    ]
    return [f"drawn towards {', '.join(told)}"] if told else []


def _candidates(track: dict[str, Any], searched: dict[str, Any]) -> Table:
    """The joined list of a track: leads to look at, with what speaks for each."""
    answer, question = track["answer"], searched["question"]
    title = [f"{track['name']}: {answer['verdict']} ({question['mode']})"]
    scored = answer["threshold"] is not None
    if scored:
        limit = f"score {answer['threshold']:.2f}" + (
            ", extrapolated" if answer["extrapolated"] else ""
        )
        title.append(
            f"threshold: {limit}, for FPIR {question['fpir']:g} and {searched['gallery']['templates']} templates"
        )
    if answer["remark"]:
        title.append(answer["remark"])
    if not answer["joined"]:
        title.append("nobody passes")
    kinds = list(answer["lists"])
    score = "score" if scored else "mean cosine, raw"
    names = ("candidate", score, "log10 LR", *kinds, "supported by")
    table = Table(*(Column(n, no_wrap=n != "supported by") for n in names), title="\n".join(title))
    for c in answer["joined"]:
        support = "only sr" if c["only_sr"] else ", ".join(c["support"]) or "nothing"
        name = f"[bold]{escape(c['subject'])}[/]" if c["passes"] else escape(c["subject"])
        cosines = (f"{c['cosines'][k]:.3f}" for k in kinds)
        ratio = _ratio(c).replace("at least ", "≥ ").replace("at most ", "≤ ") if scored else ""
        table.add_row(name, f"{round(c['score'], 2) + 0.0:.2f}", ratio, *cosines, support)
    return table


def _decisions(tracks: list[dict[str, Any]]) -> Table:
    table = Table(
        "decision",
        "track",
        "verdict",
        "candidate",
        "reason",
        "by",
        "undone by",
        title="decided by people",
    )
    for t in tracks:
        for d in t["decisions"]:
            told = (
                decided_subject(d),
                d["reason"],
                shown(d["by"], d["role"]),
                d["undone_by"] or "",
            )
            table.add_row(str(d["id"]), t["name"], d["verdict"], *map(escape, told))
    return table


def _clusters(found: dict[str, list[dict[str, Any]]]) -> Table:
    table = Table(
        "tracks", "links", "accepted", "weakest score", "state", title="perhaps one person each"
    )
    for state, rows in found.items():
        for c in rows:
            links = ", ".join(map(str, c["links"]))
            accepted = f"{c['links_accepted']} of {len(c['links'])}"
            table.add_row(
                ", ".join(c["tracks"]), links, accepted, f"{c['weakest_score']:.3f} raw", state
            )
    return table
