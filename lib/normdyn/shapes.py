"""Shapes in annotations: those of jaxtyping where it is installed (``normdyn[shapes]``), else plain types.

``Float[Tensor, "n d"]`` is a tensor of floating-point numbers with n rows and d columns. A checker such as beartype
then compares shapes at every call; without jaxtyping nothing is compared, and the text is documentation.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Int64, Shaped
else:
    try:
        from jaxtyping import Bool, Float, Int, Int64, Shaped
    except ImportError:

        class Plain:
            """Stands for every kind of number: ``Plain[Tensor, "n"]`` is ``Tensor``."""

            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                return item[0]

        Bool = Float = Int = Int64 = Shaped = Plain

__all__ = ["Bool", "Float", "Int", "Int64", "Shaped"]
