"""An algorithm is a row of a table: advantage x ratio x surrogate x aggregate, and a rollout rule.

No class knows another; `conf/algo/<name>.yaml` puts a row together and `loss.policy_loss` is where
its columns meet.
"""
