"""What a ladder says, as data and for reading."""

from dataclasses import asdict
from typing import Any

from firstlight.errors import RunError
from firstlight.ladder.asked import Asked
from firstlight.ladder.climb import Climbed
from firstlight.statistics.means import Interval
from firstlight.statistics.rungs import Tuned
from firstlight.statistics.scaling import Problem

MENDED_BY = {
    "rates": "raise ladder.widen, or give other ladder.rates",
    "minimum": "add to ladder.sizes, widen ladder.tokens_per_parameter, or raise seeds",
}
"""What to give with the same command to mend a problem. Too few budgets, sizes and seeds are
refused before anything is trained."""
LIMITS = (
    "the interval knows the chance of the seeds, and how far the rungs are off the law; not whether"
    " the law holds further up"
)


def as_data(climbed: Climbed, asked: Asked) -> dict[str, Any]:
    """The findings, ready for JSON."""
    fit, prediction = climbed.fit, climbed.prediction
    texts = {(rung.budget, rung.size.parameters): rung.size.text for rung in climbed.rungs}
    return {
        "folder": str(asked.folder),
        "name": asked.run.plain["name"],
        "seeds": asked.n_seeds,
        "confidence": fit.confidence,
        "rungs": [
            {"size": texts[one.rung.compute, int(one.rung.parameters)], **_rung(one)}
            for one in fit.rungs
        ],
        "parabolas": [
            {
                "compute": parabola.compute,
                "coefficients": parabola.coefficients.tolist(),
                "parameters": parabola.parameters and asdict(parabola.parameters),
                "loss": parabola.loss,
            }
            for parabola in fit.parabolas
        ],
        "exponent": fit.exponent and asdict(fit.exponent),
        "law": fit.law and asdict(fit.law),
        "refused": [problem.text for problem in fit.problems],
        "prediction": prediction and asdict(prediction),
        "next": climbed.next and _rung(climbed.next),
        "hit": climbed.is_hit,
    }


def _rung(one: Tuned) -> dict[str, Any]:
    rung = one.rung
    return {
        "compute": rung.compute,
        "parameters": rung.parameters,
        "tokens": rung.tokens,
        "rate": one.rate,
        "rates": list(rung.rates),
        "losses": one.losses.tolist(),
        "loss": one.mean,
        "at_edge": one.at_edge,
    }


def as_text(found: dict[str, Any]) -> str:
    """The findings for reading."""
    lines = [
        f"{'FLOPs':>9} {'parameters':>12} {'tokens':>13} {'a param.':>8} {'best rate':>9}"
        f" {'val/loss':>9} {'spread':>7}  size"
    ]
    for rung in found["rungs"]:
        lines.append(_row(rung, rung["size"]))
    for parabola in found["parabolas"]:
        size = parabola["parameters"]
        at = "no minimum" if size is None else f"best size {_counts(size)}"
        lines.append(f"{parabola['compute']:.3g} FLOPs: {at}, loss {parabola['loss']:.3f}")
    if found["law"] is not None:
        lines += _law(found)
    prediction = found["prediction"]
    if prediction is None:
        return "\n".join(lines) + "\n"
    lines.append(
        f"predicted {prediction['made']} ({prediction['fingerprint']}):"
        f" {prediction['size']}, {prediction['tokens']:,.0f} tokens,"
        f" {prediction['budget']:.3g} FLOPs: val/loss {_interval(prediction['loss'], '.4f')}"
        f"; best size there {_counts(prediction['best_parameters'])}"
    )
    lines += [_row(found["next"], prediction["size"]), _verdict(found)]
    return "\n".join([*lines, f"note: {LIMITS}"]) + "\n"


def _row(rung: dict[str, Any], size: str) -> str:
    losses, mean = rung["losses"], rung["loss"]
    spread = (sum((loss - mean) ** 2 for loss in losses) / (len(losses) - 1)) ** 0.5
    return (
        f"{rung['compute']:>9.3g} {rung['parameters']:>12,.0f} {rung['tokens']:>13,.0f}"
        f" {rung['tokens'] / rung['parameters']:>8.3g}"
        f" {rung['rate']:>9.3g} {mean:>9.4f} {spread:>7.4f}  {size}"
        f"{' (best rate is the ' + rung['at_edge'] + ' tried)' if rung['at_edge'] else ''}"
    )


def _law(found: dict[str, Any]) -> list[str]:
    law = found["law"]
    numbers = {name: _interval(law[name], ".3g") for name in ("E", "A", "alpha", "B", "beta")}
    told = ", ".join(f"{name} {value}" for name, value in numbers.items())
    return [
        f"best size ~ FLOPs^a, by the parabolas: a {_interval(found['exponent'], '.2f')}",
        f"loss = E + A / N^alpha + B / D^beta: {told}",
    ]


def _verdict(found: dict[str, Any]) -> str:
    """Hit or miss."""
    prediction, rung = found["prediction"], found["next"]
    low, high = prediction["loss"]["low"], prediction["loss"]["high"]
    if found["hit"] is None:
        return (
            f"neither hit nor miss: its best rate, {rung['rate']:.3g}, is the {rung['at_edge']} of"
            f" {len(rung['rates'])} that were tried; {MENDED_BY['rates']}"
        )
    if found["hit"]:
        return f"hit: {rung['loss']:.4f} is between {low:.4f} and {high:.4f}"
    side = "below" if rung["loss"] < low else "above"
    end = low if side == "below" else high
    return f"miss: {rung['loss']:.4f} is {side} {end:.4f}, by {abs(rung['loss'] - end):.4f}"


def refusal(problems: list[Problem]) -> RunError:
    """Why nothing is predicted, and what would mend the first reason."""
    first = problems[0]
    more = f" (and {len(problems) - 1} more in ladder.json)" if len(problems) > 1 else ""
    mend = MENDED_BY[first.kind]
    return RunError(f"nothing is predicted: {first.text}{more}; {mend}, and give the command again")


def _interval(values: dict[str, float] | Interval, form: str) -> str:
    numbers = values if isinstance(values, dict) else asdict(values)
    return f"{numbers['mean']:{form}} ({numbers['low']:{form}} to {numbers['high']:{form}})"


def _counts(values: dict[str, float]) -> str:
    rounded = {name: float(f"{value:.3g}") for name, value in values.items()}
    return _interval(rounded, ",.0f")
