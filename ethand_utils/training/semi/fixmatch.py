"""FixMatch (Sohn et al. 2020), as UniMatch V2's code has it for segmentation: with a teacher, and CutMix."""

import torch

from ethand_utils.training.distributed import all_reduce_mean, all_reduce_sum
from ethand_utils.training.joint import TeacherTraining, mix
from ethand_utils.training.losses import confident_cross_entropy, per_hand


class FixMatch(TeacherTraining):
    """The net learns to predict of strong views what its teacher predicts of weak ones, where that one is sure.

    Each hand is labelled for itself, and classes have the weights of the loss on pairs. The teacher averages weights
    and statistics; it is scored.
    """

    views, formula, scored = 1, "(L + w CE of sure labels, strong views) / 2", "teacher"

    def student_images(self, images: torch.Tensor, weak: torch.Tensor, *strong: torch.Tensor) -> torch.Tensor:
        """Return labelled images and strong views with boxes of each other, and keep their labels."""
        return torch.cat([images, self.strong_images(weak, *strong)])

    def strong_images(self, weak: torch.Tensor, *strong: torch.Tensor) -> torch.Tensor:
        """Return the strong views after CutMix, and keep `labels` and `sure`, mixed by the same boxes."""
        confidence, labels = per_hand(self.teacher_logits(weak)).softmax(2).max(2)
        sure = self.is_sure(confidence, labels)
        boxes = [self.draw_boxes(weak) for _ in strong]
        self.labels, self.sure = (torch.cat([mix(values, box) for box in boxes]) for values in (labels, sure))
        part = self.labels > 0
        on_parts = all_reduce_sum((self.sure & part).sum()) / all_reduce_sum(part.sum()).clamp(min=1)
        self.note(mask_ratio=all_reduce_mean(self.sure.float()), mask_ratio_parts=on_parts)
        return torch.cat([mix(view, box) for view, box in zip(strong, boxes, strict=True)])

    def is_sure(self, confidence: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return which pixels' labels are learned from, bool [B, 2, H, W], of their probability and the labels."""
        return confidence >= self.settings.semi_threshold

    def unlabelled_loss(self) -> torch.Tensor:
        """Compute the loss of the predictions of the strong views."""
        return self.view_loss(self.unlabelled)

    def view_loss(self, logits: torch.Tensor) -> torch.Tensor:
        """Compute the loss of logits [B, 34, H, W] of strong views, over all views."""
        return confident_cross_entropy(logits, self.labels, self.sure, self.loss_func.weights)

    def combined_loss(self, labelled: torch.Tensor, unlabelled: torch.Tensor) -> torch.Tensor:
        """Return the mean of both losses."""
        return (labelled + unlabelled) / 2


METHOD = FixMatch
