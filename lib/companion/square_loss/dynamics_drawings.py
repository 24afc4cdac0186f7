"""The figure of the chapter on length and direction."""

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, GREEN, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.square_loss.dynamics_runs import off_sphere


def draw_defects(case: Case) -> None:
    """How far the first layer is from norm one, without decay and with two decays, and the closed form."""
    looks = {0.0: BROKEN, 0.02: MEASURED, 0.1: MEASURED | {"color": GREEN}}
    fig, ax = axes(height=3.0)
    columns = {}
    for decay, look in looks.items():
        path = off_sphere(case, 0, decay, stop=10.0, count=41)
        exponent = path["rho"][0] ** 2 - path["rho"] ** 2 - 4 * decay * path["I"]
        law = path["defect"][0, 0] * exponent.exp()
        ax.semilogy(path["times"], path["defect"][:, 0], **look, label=rf"$\lambda={decay:g}$")
        ax.semilogy(path["times"], law, **PREDICTED, label="closed form" if decay == 0.1 else None)
        columns |= {f"defect_{decay:g}": path["defect"][:, 0], f"law_{decay:g}": law}
    ax.set(xlabel="flow time", ylabel=r"$\|V_1\|^2-1$")
    ax.legend(loc="lower left")
    show_figure(fig, name="off-sphere", data={"time": path["times"]} | columns)
