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
            "beside",
            "binned_means",
            "curves",
            "curves_together",
            "fraction_curves",
            "heatmap",
            "histograms",
            "intervals",
            "part_bars",
            "score_table",
        ],
        "comparison": [
            "HOW",
            "certain_table",
            "compare_rows",
            "conclusions",
            "counts",
            "fraction_display",
            "fraction_steps",
            "fraction_table",
            "step_intervals",
            "steps_display",
            "table_display",
        ],
        "confusion": ["error_shares", "hand_confusion", "worst_parts"],
        "cyclegan_table": [
            "beside_table",
            "cycle_results",
            "cycle_table",
            "shown_cycles",
            "shown_effects",
            "variant_effects",
            "verdicts",
        ],
        "evaluate": ["evaluate_store", "predict_photo", "save_photo"],
        "image_plots": [
            "colour_mask",
            "contact_sheet",
            "five_panels",
            "legend_of_parts",
            "most_overlapping",
            "photo_with_masks",
            "save_figure",
            "strips",
            "there_and_back",
        ],
        "real_frames": ["MEASURES", "measure_frames", "measure_store"],
        "tables": [
            "drawn_from",
            "independent_people",
            "metrics_table",
            "over_seeds",
            "results",
            "row_intervals",
            "scores_by_row",
        ],
    },
)
