"""Labels that tools write as text: COCO's, labelme's, YOLO's and Label Studio's.

Each reader gives the pairs of a source, and the table of its classes. Values of classes are 1…N
there, and 0 is what no outline covers.
"""

from pathlib import Path

from preparation import coco, label_studio, labelme, yolo
from preparation.files import SourceFiles
from preparation.matching import Found
from utils import UserError, abbreviate


def recognise(files: SourceFiles) -> Found | None:
    """The pairs of a source with annotations; None if it has none that are known.

    Raises:
        UserError: annotations are damaged, or a package that reads them is missing.
    """
    brushes = [name for name in files.images if label_studio.BRUSH.match(Path(name).name)]
    of_coco, of_labelme, tasks = {}, {}, []
    for name in files.with_ending(".json"):
        if name.endswith("_polygons.json"):  # Cityscapes', beside its labels
            continue
        document = files.load_json(name)
        if coco.is_coco(document) and document["images"]:
            of_coco[name] = document
        elif labelme.is_labelme(document):
            of_labelme[name] = {key: document.get(key) for key in labelme.KEYS}
        elif label_studio.is_tasks(document):
            tasks.append(document)
    try:
        if of_coco:
            return coco.read_coco(files, of_coco)
        if brushes:
            return label_studio.read_brushes(files, brushes, tasks)
        if of_labelme:
            return labelme.read_labelme(files, of_labelme)
        return yolo.read_yolo(files)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        names = abbreviate([*of_coco, *of_labelme, *brushes][:3])
        raise UserError(f"{files.root}: annotations are damaged ({names}): {error!r}") from error
