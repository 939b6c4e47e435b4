"""Pictures of results: drawn from what was kept, as the tables are."""

from pathlib import Path
from typing import Any


def dots(picture: dict[str, Any], path: Path) -> None:
    """One panel a case, one line a kind, one dot a parameter; what holds is shaded.

    What lies below `least` is drawn there as an arrow.
    """
    import matplotlib

    matplotlib.use("svg")
    # The same file for the same numbers, its text as text.
    matplotlib.rcParams |= {"svg.hashsalt": "jaxfit", "svg.fonttype": "none"}
    import matplotlib.pyplot as plt

    panels, least = picture["panels"], picture["least"]
    figure, axes = plt.subplots(
        2, -(-len(panels) // 2), figsize=(10, 6), sharex=True, sharey=True
    )
    kinds = list(panels[0]["rows"])
    for ax, panel in zip(axes.flat, panels, strict=True):
        ax.axvline(picture["line"], color="0.6", linewidth=1)
        for j, name in enumerate(picture["series"]):
            values = [row[j] for row in panel["rows"].values()]
            heights = [i + 0.22 * (j - 1) for i in range(len(kinds))]
            within = [max(value, least) for value in values]
            ax.plot(within, heights, "o", color=f"C{j}", markersize=4, label=name)
            low = [h for v, h in zip(values, heights, strict=True) if v < least]
            ax.plot([least] * len(low), low, "<", color=f"C{j}", markersize=7)
        own = kinds.index(panel["holds"])
        ax.set_axisbelow(True)
        ax.grid(axis="x", color="0.9")
        ax.axhspan(own - 0.45, own + 0.45, color="C2", alpha=0.15, linewidth=0)
        ax.set_title(panel["title"], fontsize=10)
        ax.set_yticks(range(len(kinds)), kinds, fontsize=8)
        ax.set_ylim(len(kinds) - 0.5, -0.5)
        ax.set_xlim(least - 1.5, 101)
    axes.flat[0].legend(fontsize=8, loc="lower left")
    figure.supxlabel(picture["label"], fontsize=10)
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
