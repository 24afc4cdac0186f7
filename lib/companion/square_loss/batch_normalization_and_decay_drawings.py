"""Figures of the chapter on batch normalisation with decay, and the numbers of its text."""

import torch

from claimbook.evidence import Case
from claimbook.show import results
from claimbook.show.figures import BAND, BLUE, GREEN, PREDICTED, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.square_loss import batch_normalization_and_decay_runs as runs
from companion.square_loss import unnormalized
from companion.square_loss.unnormalized_runs import images
from companion.studies.square_loss import norm_products

COLORS = (BLUE, GREEN, VERMILION)
DECAY, STEP, MOMENTUM = 0.01, 0.1, 0.9


def root_of_decay() -> float:
    """What descent with momentum multiplies a norm by at each step if only decay acts."""
    total = 1 + MOMENTUM - STEP * DECAY
    return (total + (total**2 - 4 * MOMENTUM) ** 0.5) / 2


def draw_norms(case: Case) -> None:
    """Products of norms on digits and on images from three starts: with decay, bands of all seeds, and without."""
    fig, panels = axes(1, 2, height=3.2)
    columns = {}
    pairs = (("digits", lambda d: runs.on_digits(case, d)), ("CIFAR-10", runs.on_images))
    for ax, (title, of) in zip(panels, pairs, strict=True):
        kept, free = of(DECAY), of(0.0)
        columns[f"epochs {title}"] = kept.epochs
        for k, (color, start) in enumerate(zip(COLORS, runs.SCALES, strict=True)):
            logs = kept.rho[:, k].log()
            ax.fill_between(kept.epochs, logs.amin(1).exp(), logs.amax(1).exp(), **BAND | {"color": color})
            ax.semilogy(kept.epochs, logs.mean(1).exp(), color=color, linewidth=2, label=f"start {start:g}")
            ax.semilogy(free.epochs, free.rho[:, k].log().mean(1).exp(), color=color, linestyle="-.", linewidth=1.3)
            columns[f"{title} {start:g} decay"] = logs.mean(1).exp()
            columns[f"{title} {start:g} none"] = free.rho[:, k].log().mean(1).exp()
        ax.set(xlabel="epochs", title=title)
    panels[0].set(ylabel=r"$\rho$, all layers")
    panels[0].legend(loc="lower right", fontsize=8)
    show_figure(fig, name="norm-forgets", data=columns)


def draw_ratio_and_margins(case: Case) -> None:
    """The ratio over rho on digits and on images, and deciles of the margins of both at late times."""
    digits, cifar = runs.on_digits(case, DECAY), runs.on_images(DECAY)
    fig, (left, middle, right) = axes(1, 3, height=3.0)
    columns = {}
    for ax, one, title in ((left, digits, "digits"), (middle, cifar, "CIFAR-10")):
        for k, (color, start) in enumerate(zip(COLORS, runs.SCALES, strict=True)):
            band = one.ratio[1:, k]
            ax.fill_between(one.epochs[1:], band.amin(1), band.amax(1), **BAND | {"color": color})
            ax.plot(one.epochs[1:], band.mean(1), color=color, linewidth=1.3, label=f"start {start:g}")
            columns[f"ratio {title} {start:g}"] = band.mean(1)
        ax.axhline(1, **PREDICTED)
        ax.set(xlabel="epochs", title=f"ratio over $\\rho$, {title}", ylim=(0.6, 1.4))
    left.legend(loc="upper right", fontsize=8)
    for j, one in enumerate((digits, cifar)):
        for k, color in enumerate(COLORS):
            low, centre, high = runs.late(one.deciles[:, k]).mean(0)
            at = 4 * j + k
            right.plot([at, at], [low, high], color=color, linewidth=5, alpha=0.5, solid_capstyle="butt")
            right.plot(at, centre, "o", color=color, markersize=5)
            columns[f"deciles {j} {runs.SCALES[k]:g}"] = torch.stack([low, centre, high])
    right.axhline(1, **PREDICTED)
    right.set(xticks=(1, 5), ylim=(0, 1.6), title=r"late margins $\rho\,y_nf_n$")
    right.set_xticklabels(("digits", "CIFAR-10"))
    show_figure(fig, name="ratio-and-margins", data=columns)


def numbers(case: Case) -> dict[str, str]:
    """What the text quotes: origin of stored runs, spreads over starts, losses, the fall of hidden norms, floors."""
    digits, cifar = runs.both(case, DECAY)
    free, open_cifar = runs.both(case, 0.0)
    plain = runs.on_digits(case, 0.0, plain=True)
    factor = lambda one: f"{runs.reach(one.rho).mean().exp():.2g}"
    ends = [unnormalized.end_of(case, k, 0.0) for k in range(3)]
    late_losses = lambda one: runs.late(one.loss)
    result = runs.descended(case, DECAY)
    hidden, t = result["norms"][:, :, 0, :, :3].log().mean(2), result["epochs"]
    first, last_one = (t <= 30).sum() - 1, (t <= 120).sum() - 1
    step = torch.tensor(root_of_decay()).log()
    fall = (hidden[last_one] - hidden[first]) / (2 * (t[last_one] - t[first]) * step)  # two steps an epoch
    last = runs.late(norm_products(result)["last"][:, :, 0]).mean(1)
    return {
        "origin": results.load(runs.STORED)[1].summary(),
        "factor-digits": factor(digits), "factor-images": factor(cifar),
        "factor-digits-free": factor(free), "factor-images-free": f"{runs.reach(open_cifar.rho).mean().exp():.0f}",
        "factor-plain": factor(plain),
        "loss-digits": f"{late_losses(digits).max():.3f}",
        "loss-images": f"{late_losses(cifar).min():.2f} to {late_losses(cifar).max():.2f}",
        "jump": f"{cifar.loss[-runs.LAST:].max():.2f}",
        "ratio-digits": f"{(runs.late(digits.ratio) - 1).abs().max():.3f}",
        "ratio-images": f"{(runs.late(cifar.ratio) - 1).abs().max():.2f}",
                "fall": f"{fall.min():.2f} to {fall.max():.2f}",
        "last": f"{last.min():.2f} to {last.max():.2f}",
        "floor": f"{2 / runs.nearest(*images(case)):.1f}",
        "least-found": f"{min(one.rho[-1].min().item() for one in ends):.0f}",
        "largest-f": f"{max(one.normalised()[-1].abs().max().item() for one in ends):.3f}",
    }  # fmt: skip
