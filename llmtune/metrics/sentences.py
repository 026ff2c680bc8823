"""Every sentence about results, as a template: headlines, diagnoses, comparisons, gates.

The modules that call `fill_sentence` choose which one is true.
"""

from __future__ import annotations

from typing import Final

#: Every sentence, by its name.
SENTENCES: Final[dict[str, str]] = {
    # A run without a verdict.
    "failed": "The run failed: {reason}",
    "cancelled": "The run was cancelled; there is no model.",
    "cancelled_checkpoint": "The run was cancelled; there is no final model, but its last checkpoint answers: {model}.",
    "lost_because": "The run is lost: {reason}",
    "lost": "The run is lost: it is not known whether the backend took the job.",
    "unfinished": "The run is not over yet: it is {state}.",
    "not_evaluated": "A model was tuned, and not evaluated: {reason}",
    "nothing_measured": "A model was tuned; nothing could be measured on the held-out rows.",
    # One system.
    "reaches": "The {name} model reaches {metric} {figure} on {rows}",
    "could_not_ask": "the {name} model could not be asked: {reason}",
    "was_not_asked": "the {name} model was not asked",
    "base_not_asked": "the base model was not asked: {reason}",
    "no_metric": "the {name} model has no {metric}",
    # Tuned against base.
    "helped": "Tuning helped: {metric} {moved} from {before} to {after} ({change}).",
    "hurt": "Tuning hurt: {metric} {moved} from {before} to {after} ({change}).",
    "not_separable": (
        "Base and tuned model are not separable: {metric} was {before} and is {after} ({change}); {settle}."
    ),
    "within_seeds": (
        "Tuning is not shown to help or hurt: {metric} was {before}, and with {seeds} it is {mean} on average ({within}"
        " over the seeds), so that another seed may undo the difference."
    ),
    "over_seeds": "With {seeds} {metric} is {mean} on average ({within} over the seeds), from {lowest} to {highest}.",
    "one_seed": "Of {seeds} only one has a figure, so that the spread over seeds is not known.",
    "gate_within_seeds": (
        "The run is not shown to be {what} than the baseline: {moved} ({change}), but from seed to seed the difference"
        " may be anything from {low} to {high}."
    ),
    # Beside the verdict.
    "untold_base": "The prompts do not name the labels, so the base model was never told them.",
    "outside": "{amount} of {rows} answers ({share}) are none of the {labels} labels{likelihood}.",
    "calibration": (
        "The {name} model's likeliest label is right in {accuracy} of the rows; on average it is {confidence} sure."
        " Of the half it is surest of, {half} are wrong; of all rows {all}."
    ),
    "promise": (
        "{who} answers {coverage} of rows ({interval}) with at most {error} errors, a promise that holds with"
        " {confidence}; of the {answered} test rows that it answers, {wrong} wrong."
    ),
    "no_promise": "{who} cannot promise at most {error} errors: {reason}.",
    "calibrated": (
        "{who} was calibrated on {rows} ({says}): its calibration error went from {before} to {after}, its log loss"
        " from {loss_before} to {loss_after} nats."
    ),
    "not_calibrated": "{who} was not calibrated: {reason}.",
    "outside_shares": "Answers that are none of the labels: {shares}.",
    "likelihood": "; choosing the likeliest label instead would reach {figure}",
    "majority": "Always answering '{label}' reaches {figure}.",
    "majority_more": "Always answering '{label}' reaches {figure}, more than the {name} model.",
    "majority_alike": "Always answering '{label}' reaches {figure}, which is not separable from the {name} model.",
    "cheap_less": "{who} reaches {figure}, {gap} less ({within}).",
    "cheap_more": "{who} reaches {figure}, {gap} more ({within}): do not pay for tuning.",
    "cheap_ahead": (
        "{who} does at least as well: it reaches {figure}, {gap} more ({within}), which is not certain on {rows}:"
        " do not pay for tuning."
    ),
    "cheap_alike": "{who} does as well: it reaches {figure} (a difference of {gap}, {within}): do not pay for tuning.",
    "cheap_unclear": "{who} reaches {figure} ({signed}, {within}); {settle}.",
    # One against another, on a board.
    "leads": "{first} leads {second} by {size} of {metric} ({within}).",
    "leads_uncertain": "{first} leads {second} by {size} of {metric} ({within}); {settle}.",
    "equal": "{first} and {second} are equal in {metric} ({within}) on {rows}.",
    # How much more it would take.
    "settle": "not certain on {rows}: about {needed} would settle it",
    "settle_many": "not certain on {rows}, and more than {needed} would be needed",
    "settle_never": "not certain on {rows}, and equal in figures",
    "held_out": (
        "{rows} are asked: they can show a difference of {size} between two models (8 times in 10); {goal} would take"
        " about {needed}"
    ),
    "held_out_too_few": "{rows}: too few to show any difference between two models, which takes at least {fewest}",
    # A gate.
    "better_passed": "The run is better than the baseline: {moved} ({change}).",
    "better_worse": "The run is worse than the baseline: {moved} ({change}).",
    "better_uncertain": "The run is not shown to be better than the baseline: {moved} ({change}); {settle}.",
    "not_worse_passed": "The run is not worse than the baseline by more than {margin}: {moved} ({change}).",
    "not_worse_failed": "The run is worse than the baseline by more than {margin}: {moved} ({change}).",
    "not_worse_uncertain": (
        "The run may be worse than the baseline by more than {margin}: {moved} ({change}) on {rows}."
    ),
    # The panel: base and tuned model outside the task.
    "panel_not worse": (
        "The tuned model is not worse than its base by more than {margin} outside the task: {moved} ({change})."
    ),
    "panel_worse": "The tuned model is worse than its base by more than {margin} outside the task: {moved} ({change}).",
    "panel_undecided": (
        "The tuned model may be worse than its base by more than {margin} outside the task: {moved} ({change}) on"
        " {questions}."
    ),
    "panel_floor": (
        "The base model answers only {share} of the questions right, so accuracy has little to lose{likelihood}."
    ),
    "panel_floor_likelihood": "; the likelihood of the reference answers says more",
    # The judge: one model's opinion of the answers.
    "judge_better": "The judge prefers the tuned model's answers: win rate {figure} on {rows}, ties counted half.",
    "judge_worse": "The judge prefers the base model's answers: win rate of the tuned {figure} on {rows}, ties counted"
    " half.",
    "judge_not separable": (
        "The judge does not tell the tuned model's answers from the base model's: win rate {figure} on {rows}, ties"
        " counted half."
    ),
    "judge_score_better": "The judge gives the tuned model more points: {before} to {after} ({change}) on {rows}.",
    "judge_score_worse": "The judge gives the tuned model fewer points: {before} to {after} ({change}) on {rows}.",
    "judge_score_not separable": (
        "The judge's points do not tell the tuned model from its base: {before} to {after} ({change}) on {rows}."
    ),
    "judge_turned": (
        "The order of the answers turned the verdict in {turned} (for the first answer in {first}, for the second in"
        " {second}): these are ties."
    ),
    "judge_position_bias": (
        "The judge has a position bias: the order of the answers turned the verdict in {turned} (for the first answer"
        " in {first}, for the second in {second}): these are ties."
    ),
    "judge_unreadable": "{rows} without a verdict: the judge's reply was not in the form that was asked for.",
    "judge_refused": "{rows} without a verdict: the judge's backend refused to answer.",
    "judge_unanswered": "{rows} not judged: a model gave no answer.",
    "judge_no_labels": (
        "Whether it judges as people do is not measured (evaluation.judge.labels takes answers labelled by people)."
    ),
    "judge_labels_unreadable": "Its agreement with people is not measured: {reason}.",
    "judge_agrees": "On {labels} it agrees with people in {share}, beyond chance: kappa {kappa}.",
    "judge_chance": (
        "On {labels} it agrees with people in {share}, which is no better than chance (kappa {kappa}): its verdicts"
        " say nothing."
    ),
    "judge_no_kappa": "On {labels} it agrees with people in {share}; kappa is not defined: {reason}.",
    "judge_labels_left_out": "{labels} without a verdict that could be read.",
    # A board.
    "no_result_at_all": "No member has a result.",
    "only_one_result": "{name} is the only member with a result.",
    "no_tuned_result": "No tuned model has a result; of the models without tuning {name} is ahead in figures.",
    "ahead_of_all": "Ahead of every model without tuning: {lead}",
    "tuning_did_not_help": "Tuning did not help: {name} needs none and {reaches}. Do not pay for tuning.",
    "tuning_not_shown": "Tuning is not shown to help: {name} needs none and {reaches}. Do not pay for tuning.",
    "ahead_of_tuned": "is ahead of every tuned model",
    "as_well_as_tuned": "does as well as the best tuned model",
    "paid_for_itself": "{name} has paid for itself against {other} after {answers} answers.",
    "break_even_unknown": "From how many answers on tuning pays is not known: {reason}.",
    "made_no_model": "{name} made no model: {reason}.",
    "has_no_result": "{name} has no result: {reason}.",
    "free_to_train": "{name} costs nothing to train.",
    "price_to_train": "{name} costs {price} to train.",
    "price_factor": "{name} costs {factor} times as much to train.",
    # How well a model fits, by its scores.
    "overfit": ("Overfit: {figures}; the model is {gap} points better on rows it was trained on than on {worst} rows."),
    "underfit_majority": "Underfit: {figures}; always giving the most frequent answer would reach {majority} as well.",
    "underfit": "Underfit: {figures}; the rows it was trained on are not learned either (below {low}).",
    "good_fit_few_rows": (
        "Good fit as far as can be told: {figures}; the gap of {gap} points could be chance with so few rows."
    ),
    "good_fit": "Good fit: {figures}; learned, and held-out rows are within {gap} points.",
    "good_fit_held_out": "Good fit: {figures}; held-out rows have little left to learn.",
    "fit_unclear": "Too little is reported to judge the fit: it takes training and held-out figures.",
    # By its curves: a clause, and the verdict before it.
    "by_curves_overfit": "Overfit by the curves: {fact}.",
    "by_curves_underfit": "Underfit by the curves: {fact}.",
    "by_curves_good fit": "Good fit by the curves: {fact}.",
    "by_curves_unclear": "Unclear: {fact}.",
    "rising": "{curve} was lowest at step {step} ({lowest}) and is {last} at step {last_step}{training}",
    "rising_beside": ", while training loss fell from {start} to {end}",
    "falling": "{curve} was still falling at the end ({fall} over the last quarter of the steps, to {last})",
    "level": "{curve} ended at {last}, with its lowest {lowest} at step {step}, and had levelled off",
    "short": "{curve} has too few points to tell whether it had levelled off",
    "training_falling": (
        "training loss was still falling at the end ({fall} over the last quarter of the steps), and {few} to say more"
    ),
    "no_validation": "there is no validation loss",
    "few_validation": "there are too few points of the validation loss",
    "diverged_value": "Diverged: training loss is {value} (since step {step} at the latest).",
    "diverged_rise": "Diverged: training loss rose from {start} to {end}.",
    "spike": "{curve} jumped to {value} at step {step}{before}",
    "spike_value": "{curve} was {value} at step {step}{before}",
    "spike_before": " (before: {value})",
}


def fill_sentence(sentence: str, /, **values: object) -> str:
    """Return a sentence with its values filled in."""
    return SENTENCES[sentence].format(**values)
