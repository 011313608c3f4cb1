"""Training: nets, losses, metrics, callbacks, pseudo-labels, the Learner, inference.

May import data and the ground.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "adversarial": [
            "Adversarial",
            "AgainstTruth",
            "Alternating",
            "DiscriminatorLoss",
            "discriminator_accuracy",
            "discriminator_state",
        ],
        "callbacks": ["CourseMIoU"],
        "inference": ["Inference", "PLAIN", "export_model", "label_pixels", "predict", "predict_masks"],
        "joint": ["SemiSettings", "make_joint_dls"],
        "learner": ["Phase", "best_device", "start_from", "to_device", "train_phases"],
        "losses": [
            "D_CHANNELS",
            "LOSSES",
            "SegmentationLoss",
            "per_hand",
            "prediction_maps",
            "target_maps",
            "weights_of_classes",
        ],
        "metrics": ["course_miou", "nanmean"],
        "models": ["count_parameters", "create_model", "load_net", "load_weights", "save_weights"],
        "presence": ["presence_threshold"],
        "pseudo_labels": [
            "LabelOnline",
            "TopHalfFilter",
            "best_of",
            "filter_mask",
            "label_store",
            "pseudo_filter",
            "true_quality",
        ],
    },
)
