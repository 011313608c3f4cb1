"""Analysis: scores, predictions, confusion, statistics, tables, comparisons, figures.

May import experiments and all before it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "charts": [
            "balance_curves",
            "bars",
            "binned_means",
            "confusion_matrix",
            "curves",
            "curves_together",
            "fraction_curves",
            "heatmap",
            "histograms",
            "histograms_with_ticks",
            "intervals",
            "part_bars",
            "score_table",
        ],
        "comparison": [
            "ablation_steps",
            "ablation_verdict",
            "fraction_display",
            "fraction_steps",
            "fraction_table",
            "pooled_std",
            "seed_std_table",
            "step_counts",
            "step_intervals",
            "steps_display",
        ],
        "confusion": ["error_shares", "hand_confusion", "worst_parts"],
        "cyclegan_images": ["cycle_images", "most_overlapping"],
        "cyclegan_table": [
            "companion_table",
            "cycle_display",
            "cycle_results",
            "cycle_table",
            "cyclegan_verdict",
            "effects_display",
            "variant_effects",
        ],
        "evaluate": ["evaluate_store", "overall_scores", "part_scores"],
        "hand_finder": ["find_views", "photo_views", "plain_view", "view_box", "whole_view"],
        "image_plots": [
            "colour_mask",
            "contact_sheet",
            "five_panels",
            "front_maps",
            "legend_of_parts",
            "photo_with_masks",
            "save_figure",
            "strips",
        ],
        "photo_files": ["photo_folders"],
        "photos": ["predict_view", "save_photo"],
        "recipes": ["read_recipes"],
        "real_frames": ["MEASURES", "arrangement_percentages", "measure_frames", "measure_store"],
        "tables": [
            "independent_people",
            "metrics_table",
            "over_seeds",
            "resampled_intervals",
            "results",
            "row_intervals",
            "scores_by_row",
            "table1_display",
            "table1_with_tests",
        ],
    },
)
