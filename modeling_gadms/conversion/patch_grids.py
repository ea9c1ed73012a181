"""How many patches of an image are down and across."""

import math


def patch_grid(name: str, image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Patches down and across of an image.

    Args:
        name (`str`): of the argument, for the error.
        image_size (`tuple[int, int]`): (height, width) in pixels.
        patch_size (`int`): side of a patch in pixels.

    Raises:
        ValueError: if patches do not cover the image.
    """
    height, width = image_size
    if min(height, width) < 1 or height % patch_size or width % patch_size:
        raise ValueError(
            f"{name} = {by(image_size)} (height x width) is no multiple of the patches of {patch_size}x{patch_size}; "
            f"give another {name}"
        )
    return height // patch_size, width // patch_size


def source_patch_grid(
    num_patches: int,
    patch_size: int,
    source_image_size: tuple[int, int] | None,
    target_grid: tuple[int, int] | None,
) -> tuple[int, int]:
    """Patches down and across of a model that tells only how many they are.

    As the size given says; else a square, or three or two times as high as wide, as images of persons are; else as
    the target has them.

    Args:
        num_patches (`int`)
        patch_size (`int`): side of a patch in pixels.
        source_image_size (`tuple[int, int]`, *optional*): (height, width) in pixels.
        target_grid (`tuple[int, int]`, *optional*): patches down and across that are asked for.

    Raises:
        ValueError: if the size given has another number of patches, or without one if nothing tells the grid, or two
            things tell two.

    Examples:
        >>> source_patch_grid(192, 16, None, None)
        (24, 8)
        >>> source_patch_grid(15, 7, None, (3, 5))
        (3, 5)
    """
    if source_image_size:
        grid = patch_grid("source_image_size", source_image_size, patch_size)
        if grid[0] * grid[1] != num_patches:
            raise ValueError(
                f"source_image_size = {by(source_image_size)} has {by(grid)} patches of {patch_size}x{patch_size}, "
                f"and there are positions for {num_patches}"
            )
        return grid
    usual = None
    for ratio in (1, 3, 2):
        across = math.isqrt(num_patches // ratio)
        if across and ratio * across * across == num_patches:
            usual = (ratio * across, across)
            break
    if target_grid is None or target_grid[0] * target_grid[1] != num_patches:
        target_grid = usual  # no witness
    # Where both have as many patches, either may be meant, and the wrong one would scramble the positions.
    if target_grid and usual in (None, target_grid):
        return target_grid
    downs = [down for down in range(1, num_patches + 1) if num_patches % down == 0]
    sizes = [by((down * patch_size, num_patches // down * patch_size)) for down in downs]
    raise ValueError(
        f"there are positions for {num_patches} patches of {patch_size}x{patch_size}, and it is not certain how many "
        f"are down and across; give source_image_size (--source-image-size), one of {', '.join(sizes) or 'none'}"
    )


def by(size: tuple[int, int]) -> str:
    """(height, width) as people write it.

    Examples:
        >>> by((384, 128))
        '384x128'
    """
    return f"{size[0]}x{size[1]}"
