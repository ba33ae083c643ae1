"""Whether demonstrations fit into the answers of a run that trains on them."""

from collections.abc import Sequence

from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import Config, RolloutEngine
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.rollout.demonstrations import demonstration_ids
from mirrorpo.train.prompt_lengths import most_tokens

# Of the demonstrations. A few long ones are usual in data that people wrote, and may be cut; a world's own
# are all of one length, and lose their answer.
MOST_CUT = 0.1


def cut_demonstrations(
    engine: RolloutEngine, policy: LanguageModel, prompts: Sequence[Prompt], config: Config
) -> list[str]:
    """One line where demonstrations that are trained on are cut; none of a run that samples.

    Args:
        engine: of the training rollouts.
        policy: with the tokenizer.
        prompts: those that are trained on.
        config: of the run.

    Raises:
        ValueError: naming the length that is needed, where more than a tenth is cut.
    """
    limit = config["max_new_tokens"]
    if engine.samples or config["steps"] == 0:
        return []
    # With the token that ends it; most are known to fit without being read.
    unread = {prompt.demonstration for prompt in prompts if most_tokens(prompt.demonstration) + 1 > limit}
    lengths = {text: len(demonstration_ids(policy.tokenizer, text)) for text in unread}
    cut = [length for p in prompts if (length := lengths.get(p.demonstration, 0)) > limit]
    if not cut:
        return []
    found = (
        f"max_new_tokens={limit}: {len(cut)} of {len(prompts)} demonstrations are longer and lose their end; "
        f"the longest needs max_new_tokens={max(cut)}"
    )
    if len(cut) > MOST_CUT * len(prompts):
        raise ValueError(found)
    return [found]
