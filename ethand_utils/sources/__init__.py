"""Sources of samples (rendered hands, InterHand2.6M, the course's files, labels of one's own
photos, existing stores), each read into stores.

May import data, rendering, hands and the ground.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "course": ["read_course"],
        "course_export": ["export_course"],
        "detect": ["SOURCES", "Source", "detect_source", "find_source"],
        "interhand": ["read_interhand"],
        "interhand_frames": ["read_frames"],
        "joint_annotations": ["from_joints"],
        "labels_dataset": ["read_labels"],
        "photo_labels": ["HandLabel", "LabelFolder", "PhotoLabel", "fit_label", "label_masks"],
        "rendered": ["render_dataset"],
        "request": ["ReadRequest"],
        "stand_ins": ["label_stand_ins", "with_true_masks", "write_stand_ins"],
    },
)
