"""Two rooted trees that have the given numbers of vertices at each depth and are not isomorphic."""


def check(given: str, expected: str, actual: str) -> bool:
    verdict, *numbers = actual.split()
    if verdict != expected.split()[0] or verdict == "perfect":
        return verdict == expected.split()[0] and not numbers
    sizes = list(map(int, given.split()[1:]))
    num_vertices = sum(sizes)
    parents = list(map(int, numbers))
    if len(parents) != 2 * num_vertices:
        return False
    shapes: dict[tuple[int, ...], int] = {}
    first, second = (_shape(part, sizes, shapes) for part in (parents[:num_vertices], parents[num_vertices:]))
    return first != second


def _shape(parents: list[int], sizes: list[int], shapes: dict[tuple[int, ...], int]) -> int:
    """A number for the tree, the same for isomorphic ones. Raises ValueError if it is not as asked for."""
    children: list[list[int]] = [[] for _ in range(len(parents) + 1)]
    for vertex, parent in enumerate(parents, start=1):
        if not 0 <= parent <= len(parents):
            raise ValueError("no such parent")
        children[parent].append(vertex)
    levels = [children[0]]
    while levels[-1]:
        levels.append([child for vertex in levels[-1] for child in children[vertex]])
    if [len(level) for level in levels[:-1]] != sizes:
        raise ValueError("other numbers of vertices")
    numbers: dict[int, int] = {}
    for level in reversed(levels):
        for vertex in level:
            key = tuple(sorted(numbers[child] for child in children[vertex]))
            numbers[vertex] = shapes.setdefault(key, len(shapes))
    return numbers[children[0][0]]
