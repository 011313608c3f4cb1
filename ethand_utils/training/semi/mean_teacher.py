"""Mean Teacher (Tarvainen and Valpola 2017), as TorchSemiSeg has it for segmentation."""

import torch
from torch import nn

from ethand_utils.labels import HANDS
from ethand_utils.training.distributed import all_reduce_mean, with_shared_statistics
from ethand_utils.training.joint import SemiSettings, TeacherTraining, move_average
from ethand_utils.training.losses import per_hand


class MeanTeacher(TeacherTraining):
    """Draws the student's probabilities towards those of its teacher, on all images of the batch, which both see alike.

    The teacher normalises by the statistics of the batch and averages weights alone, by a constant decay. Pairs and
    unlabelled images are one batch, in the source two. The student is scored.
    """

    views, formula, scored = 0, "L + w MSE(student, teacher)", "student"

    def __init__(self, model: nn.Module, settings: SemiSettings):
        super().__init__(model, settings)
        self.teacher.train()

    def before_fit(self):
        self.teacher = with_shared_statistics(self.teacher)

    def student_images(self, images: torch.Tensor, weak: torch.Tensor) -> torch.Tensor:
        """Return all images, and keep the teacher's probabilities of them."""
        both = torch.cat([images, weak])
        self.targets = per_hand(self.teacher_logits(both)).softmax(2)
        return both

    def unlabelled_loss(self) -> torch.Tensor:
        """Compute the mean squared difference over all images, pixels and classes, summed over the hands."""
        probability = per_hand(torch.cat([self.pred, self.unlabelled]).contiguous()).softmax(2)
        return len(HANDS) * all_reduce_mean((probability - self.targets).square())

    def after_step(self):
        move_average(self.teacher, self.student, self.settings.ema_decay, buffers=False)


METHOD = MeanTeacher
