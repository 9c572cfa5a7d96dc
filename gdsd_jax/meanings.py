"""What every number of a run means, in a sentence."""

from collections.abc import Iterable, Mapping
import types

# What every key means, one sentence each, by phase. A part of a task's grades has any other name;
# it stands in rollout and eval lines as its mean over the judged answers.
MEANINGS: Mapping[str, Mapping[str, str]] = types.MappingProxyType(
    {
        "every line": {
            "phase": "sft, rollout, train, probe or eval",
            "step": "the round of a rollout, probe or evaluation, the optimizer step of the others",
            "wall_s": "seconds of running so far, those before a resume included",
        },
        "sft": {
            "loss": "mean loss of the answers that are learnt since the line before, nats a token; "
            "of sft.objective=sft with sft.weighting=uniform half of it",
            "heldout_loss": "the same loss of held-out answers, nats a token",
            "skipped": "how many steps since the line before were not finite and changed nothing, "
            "with not_finite=skip alone",
        },
        "rollout": {
            "reward": "mean of what the updates raise, by the run's own reward.weights",
            "solved": "share of the judged answers that are solved",
            "judged": "share of the answers that got a verdict; left out where all did",
            "length": "mean tokens of a completion, through its end token",
            "truncated": "share of the completions that were cut before an end token",
            "tokens": "tokens of all completions of the round",
            "tokens_per_s": "completion tokens a second in the rollout",
            "rollout_s": "seconds until the completions were there",
            "reward_s": "seconds of grading after that",
            "distinct": "share of different texts in a prompt's group",
            "flat_groups": "share of the groups whose judged rewards are all equal",
            "reward_std": "spread of the judged rewards inside a prompt's group, its standard "
            "deviation",
            "repetition": "share of runs of four tokens that came before in their completion",
            "drift_mean": "mean distance of the recorded log-probabilities from those of a full "
            "forward, nats a token",
            "drift_max": "the largest such distance of any token, nats",
        },
        "train": {
            "loss": "the objective that is made small",
            "learning_rate": "the learning rate of the step",
            "grad_norm": "norm of the gradient before it is clipped",
            "update_s": "seconds of an optimizer step",
            "kl": "divergence from the reference or the teacher, nats",
            "score": "mean score of the completions, their estimated log-likelihood, nats a token; "
            "of weighting=uniform half of it",
            "trust": "share of the completions at the edge of the trust region",
            "skipped": "1 where the step was not finite and changed nothing, else 0, with "
            "not_finite=skip alone",
        },
        "objective": {
            "kl_max": "the largest divergence of any completion, nats",
            "move": "mean distance of a score from that before the round's updates, nats a token",
            "move_max": "the largest such distance of any completion, nats a token",
            "target": "mean distance by which the advantages ask the scores to move, nats a token",
            "residual": "mean distance of the moves, within the trust region, from their targets",
            "move_share": "share of the targets that the moves, within the trust region, have made",
            "residual_share": "what is left to the targets, a share of them",
            "clipped": "share of all scores, or tokens, outside of the trust region",
            "centred_score": "mean score after its centre is taken away, nats a token",
            "centred_score_max": "the largest such score of any completion, nats a token",
            "score_noise": "spread of a completion's score over its masked views, nats a token",
            "slope": "mean steepness of the loss in a completion's score",
            "slope_spread": "spread of that slope over the completions",
            "slope_snr": "mean of the slope over its spread, a ratio of signal to noise",
            "eubo": "mean upper estimate of the completions' log-likelihood, nats a token",
            "effective": "share of the completions that carry the weight of their group",
            "masked": "mean tokens of a completion that are scored",
        },
        "probe": {
            "move": "mean distance that a round's updates moved a completion's ELBO, nats a token",
            "target": "mean distance that the advantages ask of it, by one nat per unit of "
            "advantage where the objective does not say how far, nats a token",
            "move_share": "share of the targets that the moves have made",
            "residual_share": "mean distance of the moves from their targets, a share of these",
            "ess": "effective share of the completions under weights exp(move of the whole ELBO)",
            "mismatch_gap": "mean of the ELBO less the likelihood of the rollout's own commits, "
            "before the updates, nats a token",
            "mismatch_corr": "correlation of the two inside groups, each a token",
            "mismatch_signs": "of the completions whose ELBO moved, the share whose likelihood "
            "moved in the same direction",
            "mismatch_elbo_var": "variance inside groups of the ELBO a token, before the updates",
            "mismatch_trajectory_var": "the same of the likelihood",
            "mismatch_cov": "covariance of the two inside groups",
        },
        "eval": {
            "pass_at_1": "share of the judged problems that are solved, temperature 0",
            "mean_reward": "mean of the part of the grades that the task names as its measure, "
            "0..1, temperature 1; of a task that names none the reward",
            "reward": "mean of the reward as in rollout lines, temperature 1",
            "solved": "share of the judged answers that are solved, temperature 1",
            "problems": "how many problems were asked",
            "judged_problems": "how many problems have an answer with a verdict, temperature 0",
            "forwards_per_token": "forwards of the model a token, temperature 0",
            "looping": "share of the answers that repeat themselves, temperature 0",
            "kl": "forward KL to the teacher at states of the student's answers, nats a masked "
            "token",
            "kl_common": "forward KL to the teacher at states of the teacher's answers, nats a "
            "masked token",
            "teacher_nats": "-log-probability of the student's answers by the teacher, nats a "
            "token",
            "teacher_pass_at_1": "share of the problems that the teacher solves, temperature 0",
            "threshold_pass_at_1": "share of the problems that are solved where confident tokens "
            "are committed early",
            "threshold_forwards_per_token": "forwards of the model a token where confident tokens "
            "are committed early",
        },
        "terminal": {
            "round": "how many rounds are done",
            "rounds": "of how many",
            "seconds_left": "seconds that are expected to be left",
        },
    }
)
# An objective's own keys stand in train lines alone, the probe's in its own, where no part of a
# task's grades does.
APART = ("objective", "probe")
RESERVED = frozenset(
    name for place, names in MEANINGS.items() if place not in APART for name in names
)
RESERVED_PREFIXES = ("drift_", "teacher_", "threshold_", "pass_at_")


def meaning_of(phase: str, key: str) -> str:
    """What a key of a line of that phase says, one sentence; "" for a part of the grades."""
    places = (phase, "objective", "every line") if phase == "train" else (phase, "every line")
    return next((MEANINGS[place][key] for place in places if key in MEANINGS[place]), "")


def sentence_of(phase: str, key: str) -> str:
    """The same of every key, also of what only a task or an objective of a user's own can say."""
    if phase in ("rollout", "eval"):
        unknown = "a part of the grades, mean over the judged answers"
    else:
        unknown = "a number of the run's own objective"
    return meaning_of(phase, key) or unknown


def of_evaluations(
    parts: Iterable[str], graded: bool, taught: bool, threshold: bool
) -> tuple[str, ...]:
    """The numbers of an eval line, those of answers that get verdicts among them.

    Args:
      parts: of the task's grades.
      graded: whether it grades answers.
      taught: whether there is a teacher to compare with.
      threshold: whether confident tokens are committed early.
    """

    def is_told(name: str) -> bool:
        beside_teacher = name.startswith(("kl", "teacher_", "threshold_"))
        is_graded = name.endswith(("pass_at_1", "judged_problems", "reward", "solved"))
        return (
            (graded or not is_graded)
            and (taught or not beside_teacher)
            and (threshold or not name.startswith("threshold_"))
        )

    return (*filter(is_told, MEANINGS["eval"]), *(parts if graded else ()))


def is_reserved(name: str) -> bool:
    """Whether the loop uses this key itself, so that no part of a task's grades may have it."""
    return name in RESERVED or name.startswith(RESERVED_PREFIXES)
