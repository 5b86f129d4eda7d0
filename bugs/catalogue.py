"""The catalogue of planted bugs: mistakes that people make, in the order of the formulas that they break."""

from .planting import Bug

GRADIENTS = ("finite differences", "autograd", "side by side")

CATALOGUE = [
    # Linear
    Bug(
        name="dropped-transpose", title="A transpose is dropped",
        story="The gradient of W is Gᵀ X; here it is its transpose, Xᵀ G. If W is not square, the shapes give it "
              "away, until a reshape hides it; if W is square, nothing does.",
        symptom="The report's network still learns the disk, but less well; a network for digits never gets off the "
                "ground.",
        seen_by=(*GRADIENTS, "training"), check="diy.test_diy.test_linear_by_hand",
        edits=(("Linear.backward", "rows.mT @ inputs", "(inputs.mT @ rows).reshape(W.shape)"),),
    ),
    Bug(
        name="bias-not-summed", title="The bias gradient is not summed over the batch",
        story="All samples share b, so its gradient is a sum over them. Here only the first sample counts: the shapes "
              "fit, and for a batch of one it is even right.",
        symptom="A test error of 6 to 9 % where 2 % is possible, and no other sign.",
        seen_by=GRADIENTS, check="diy.test_diy.test_linear_by_hand",
        edits=(("Linear.backward", "rows.sum(0)", "rows[0]"),),
    ),
    Bug(
        name="averaged-twice", title="The layer averages what the loss has already averaged",
        story="The weights' gradient is divided by the number of samples, but the loss has already divided by it. It "
              "looks like a sensible allowance for the batch size.",
        symptom="Training looks slow: the learning rate is N times too small for the weights, but right for the "
                "biases.",
        seen_by=GRADIENTS, check="diy.test_diy.test_linear_by_hand",
        edits=(("Linear.backward", "rows.mT @ inputs", "rows.mT @ inputs / max(1, len(rows))"),),
    ),
    Bug(
        name="transposed-way-back", title="The gradient goes back through Wᵀ instead of W",
        story="∂ℓ/∂X = G W. Here the transpose of forward is used in backward too. With a square W the shapes fit; "
              "layers that are not square are left right. The networks that train side by side have no square layer, "
              "so they do not show the mistake.",
        symptom="The last layers learn, the first ones get gradients that have little to do with the loss: a test "
                "error of 10 % where 2 % is possible.",
        seen_by=("finite differences", "autograd"), check="diy.test_diy.test_linear_by_hand",
        edits=(("Linear.backward", "return G @ W if self.needs_input_grad else None",
                "return G @ (W.mT if W.shape[0] == W.shape[1] else W)"),),
    ),
    Bug(
        name="variance-for-std", title="Xavier's variance is taken for its standard deviation",
        story="The paper gives the variance 2 / (in + out); `normal_` wants its square root.",
        symptom="Signals shrink from layer to layer, and gradients with them. Training starts late and ends a little "
                "worse.",
        seen_by=(), check="diy.test_diy.test_xavier_normal_initialization",
        edits=(("Linear.reset_parameters", "math.sqrt(2 / (self.in_features + self.out_features))",
                "2 / (self.in_features + self.out_features)"),),
    ),
    Bug(
        name="all-weights-equal", title="All weights start with the same number",
        story="All units of a hidden layer then compute the same, get the same gradient, and stay equal for ever.",
        symptom="A layer of 25 units learns no more than a layer of one unit could.",
        seen_by=("training",), check="diy.test_diy.test_xavier_normal_initialization",
        edits=(("Linear.reset_parameters",
                "self.weight.normal_(0, math.sqrt(2 / (self.in_features + self.out_features)))",
                "self.weight.fill_(math.sqrt(2 / (self.in_features + self.out_features)))"),),
    ),
    Bug(
        name="forgotten-parameter", title="A parameter is missing from parameters()",
        story="The bias gets its gradient, but the optimizer never gets the bias.",
        symptom="The biases never move. On digits it does not show. The disk cannot be learned at all: without "
                "biases, a ReLU network gives all points on a ray from the origin the same label.",
        seen_by=(*GRADIENTS, "training"), check="diy.test_diy.test_summary_counts_parameters",
        edits=(("Linear", 'parameter_names = ("weight", "bias")', 'parameter_names = ("weight",)'),),
    ),
    # Activations
    Bug(
        name="relu-mask-from-gradient", title="ReLU masks by the sign of the gradient",
        story="backward asks where the gradient is positive instead of where the input was.",
        symptom="Training stalls: every gradient that should make a unit's output larger is thrown away.",
        seen_by=(*GRADIENTS, "training"), check="diy.test_gradients.test_relu",
        edits=(("ReLU.backward", "_where(X, G)", "G.relu()"),),
    ),
    Bug(
        name="relu-kink", title="ReLU's derivative is 1 at the kink",
        story="s ≥ 0 instead of s > 0. Each is a derivative from one side, and finite differences accept either; but "
              "PyTorch uses 0, and inputs of exactly zero, as in images or after dropout, tell the two apart.",
        symptom="None, except where many inputs are exactly 0.",
        seen_by=(), check="diy.test_diy.test_relu_by_hand",
        edits=(("ReLU.forward", "self.remember(X, X)", "self.remember(X, S)"),
               ("ReLU.backward", "_where(X, G)", "G * (X >= 0)")),
    ),
    Bug(
        name="changed-input", title="ReLU overwrites the caller's input",
        story="`relu_` saves memory, but destroys the caller's tensor. The gradient checker compares its input before "
              "and after; the other oracles pass in copies, so they notice nothing.",
        symptom="Everything works until the input is used again: the data of the next epoch have lost their negative "
                "numbers.",
        seen_by=("finite differences",), check="diy.test_diy.test_nothing_that_is_handed_in_is_changed",
        edits=(("ReLU.forward", "S.relu()", "S.relu_()"),),
    ),
    Bug(
        name="tanh-at-the-input", title="The derivative of tanh is taken at the input",
        story="1 − s² instead of 1 − tanh²(s): the input has been taken for the output.",
        symptom="Fine near 0, where tanh(s) ≈ s; beyond |s| = 1 the gradient points the wrong way, and some runs end "
                "in nan.",
        seen_by=GRADIENTS, check="diy.test_gradients.test_tanh",
        edits=(("Tanh.forward", "self.remember(X, X)", "self.remember(X, S)"),),
    ),
    Bug(
        name="sigmoid-without-output", title="A factor of sigmoid's derivative is forgotten",
        story="σ' = σ (1 − σ); here it is 1 − σ. None of the networks that train side by side has a Sigmoid.",
        symptom="Units that are off learn too fast.",
        seen_by=("finite differences", "autograd"), check="diy.test_convolution.test_sigmoid_by_hand",
        edits=(("Sigmoid.backward", "G * (1 - X) * X", "G * (1 - X)"),),
    ),
    # Dropout
    Bug(
        name="mask-not-reused", title="Dropout draws a new mask in backward",
        story="Forward and backward must drop the same components; a new mask gives the gradient of another network.",
        symptom="Training works, with more noise than it should have.",
        seen_by=GRADIENTS, check="diy.test_diy.test_dropout_by_hand",
        edits=(("Dropout.backward", "G * m", "G * (self.mask(G) if self.training else 1.0)"),),
    ),
    Bug(
        name="dropout-not-rescaled", title="Dropout does not rescale",
        story="Without the factor 1/(1 − p) in training, the units of the next layer get larger sums in evaluation "
              "than those they were trained on.",
        symptom="In evaluation, all sums are larger than in training: a test error of 5 to 9 % where 2 % is possible.",
        seen_by=("autograd", "side by side"), check="diy.test_diy.test_dropout_by_hand",
        edits=(("Dropout.mask", "m.bernoulli_(1 - self.p).div_(1 - self.p)", "m.bernoulli_(1 - self.p)"),),
    ),
    Bug(
        name="dropout-keeps-p", title="p is the probability of keeping",
        story="In older papers, p is the share kept; in PyTorch, the share dropped. At p = 0.5 there is no difference.",
        symptom="With p = 0.2, four units out of five are dropped, and training suffers.",
        seen_by=("autograd", "side by side", "training"), check="diy.test_diy.test_dropout_by_hand",
        edits=(("Dropout.mask", "m.bernoulli_(1 - self.p)", "m.bernoulli_(self.p)"),),
    ),
    Bug(
        name="dropout-in-eval", title="Dropout is active in evaluation",
        story="The code never looks at `self.training`.",
        symptom="The same network gives a different answer each time, and its test error is twice what it should be.",
        seen_by=(), check="diy.test_diy.test_dropout_is_off_in_eval",
        edits=(("Dropout.forward", "self.mask(X) if self.training else 1.0", "self.mask(X)"),),
    ),
    Bug(
        name="eval-is-shallow", title="eval() reaches only the outermost module",
        story="The flag is set on the network, but not on the layers inside it.",
        symptom="As with dropout in evaluation: answers differ from call to call.",
        seen_by=(), check="diy.test_diy.test_train_and_eval_reach_all_modules",
        edits=(("_Housekeeping.train", "self.named_children()", "()"),),
    ),
    # Modules together
    Bug(
        name="overwritten-gradient", title="backward overwrites gradients instead of adding to them",
        story="`=` instead of `+=`. As long as each parameter is used once per step, nothing shows.",
        symptom="Weights shared by two layers, or batches split into parts, get only the last contribution.",
        seen_by=("finite differences",), check="diy.test_diy.test_gradients_accumulate_until_they_are_forgotten",
        edits=(("Module.accumulate", "gradient if before is None else before + gradient", "gradient"),),
    ),
    Bug(
        name="layers-backward-in-order", title="Sequential goes back from the first layer to the last",
        story="The chain rule starts at the output; here `reversed` is missing.",
        symptom="An error about shapes if the shapes differ; nonsense if they do not.",
        seen_by=(*GRADIENTS, "training"), check="diy.test_diy.test_the_same_module_twice_remembers_both_inputs",
        edits=(("Sequential.backward", "reversed(self.layers)", "self.layers"),),
    ),
    Bug(
        name="stale-cache", title="A module keeps its first input until backward",
        story="A second forward does not replace what the first one remembered: memory is filled only when empty.",
        symptom="If you look at the loss of one more batch before backward, you get gradients of the wrong batch.",
        seen_by=("finite differences",), check="diy.test_diy.test_a_forward_replaces_what_the_one_before_remembered",
        edits=(("_Run.__init__", "outer is None and self.recorded is not None", "False"),
               ("_Run.keep", 'setattr(memory, "enabled" if self.recorded else "disabled", self)',
                "memory.enabled = memory.enabled or self")),
    ),
    Bug(
        name="shared-layer-copied", title="A layer that is used twice becomes two layers",
        story="The second appearance is a copy, with parameters of its own.",
        symptom="Tied weights come untied, and the number of parameters doubles.",
        seen_by=(), check="diy.test_diy.test_the_same_module_twice_remembers_both_inputs",
        edits=(("Sequential.append", "self.layers.append(module)",
                "self.layers.append(copy.deepcopy(module) if module in self.layers else module)"),),
    ),
    Bug(
        name="changes-go-unnoticed", title="Nobody notices that a remembered tensor was changed",
        story="backward needs the input and the weights as they were in forward. A step or an in-place operation in "
              "between makes the result wrong; PyTorch and diy count changes and raise an error.",
        symptom="Wrong gradients, without a word, in code that looks harmless.",
        seen_by=(), check="diy.test_diy.test_what_backward_needs_must_not_change_in_between",
        edits=(("_Run.check_versions", "versions != self.versions[: len(versions)]", "False"),),
    ),
    # Losses
    Bug(
        name="sum-in-the-gradient", title="The loss is a mean, but its gradient is that of a sum",
        story="The mistake of the 2019 report: the loss is divided by the number of components, its gradient is not. "
              "The same learning rate then takes steps larger than PyTorch's, by a factor of 200 in the report.",
        symptom="Learning rates that work elsewhere diverge here, and those that work here achieve nothing elsewhere.",
        seen_by=GRADIENTS, check="diy.test_diy.test_mse_by_hand",
        edits=(("MSELoss.backward", "D * (2 * self.share(D))", "D * 2"),),
    ),
    Bug(
        name="no-mean-at-all", title="The mean's 1/M is missing in loss and gradient alike",
        story="Loss and gradient agree with each other, so no check of one against the other can object.",
        symptom="The loss grows with the batch, so the learning rate has to shrink.",
        seen_by=("autograd", "side by side"), check="diy.test_diy.test_mse_by_hand",
        edits=(("MSELoss.forward", "self.reduce(D.square())", "D.square().sum()"),
               ("MSELoss.backward", "D * (2 * self.share(D))", "D * 2")),
    ),
    Bug(
        name="missing-two", title="The factor 2 of the square's derivative is missing",
        story="It is often left out on purpose, with ½ in the loss; here the loss has no ½.",
        symptom="None: half the gradient is just as good a direction, at twice the learning rate.",
        seen_by=GRADIENTS, check="diy.test_diy.test_mse_by_hand",
        edits=(("MSELoss.backward", "2 * self.share(D)", "self.share(D)"),),
    ),
    Bug(
        name="broadcast-loss", title="Prediction and target are broadcast",
        story="If nobody checks the shapes, (N, 1) − (N,) gives all N² differences.",
        symptom="The network learns to predict the mean of all targets, and the loss looks plausible.",
        seen_by=(), check="diy.test_diy.test_prediction_and_target_that_do_not_fit",
        edits=(("MSELoss._check", "P.shape != T.shape", "False"),),
    ),
    Bug(
        name="softmax-overflow", title="Softmax without the shift",
        story="exp overflows beyond 88 in float32. Lowering all scores by their maximum prevents just that.",
        symptom="Training runs well until a score gets large; then the loss becomes nan and stays nan.",
        seen_by=(), check="diy.test_convolution.test_large_scores_neither_overflow_nor_vanish",
        edits=(("CrossEntropyLoss.forward", "S - S.amax(-1, keepdim=True)", "S"),),
    ),
    # Optimizers
    Bug(
        name="gradients-not-zeroed", title="zero_grad does not zero",
        story="Every step then uses the sum of all gradients since the beginning.",
        symptom="The loss falls for some steps, then training blows up.",
        seen_by=("side by side", "training"), check="diy.test_diy.test_the_optimizer_forgets_gradients",
        edits=(("Optimizer.zero_grad", "parameter.grad = None", "pass"),),
    ),
    Bug(
        name="uphill", title="The step goes uphill",
        story="w + η g instead of w − η g.",
        symptom="The loss grows.",
        seen_by=("side by side", "training"), check="diy.test_diy.test_sgd_by_hand",
        edits=(("Optimizer.step", "-lr", "lr"),),
    ),
    Bug(
        name="velocity-is-the-gradient", title="The first velocity is the gradient itself, not a copy",
        story="Both names refer to one tensor, so the second step changes the first gradient as well.",
        symptom="None as long as each step gets new gradients; wrong steps if they are accumulated.",
        seen_by=(), check="diy.test_diy.test_momentum_keeps_its_own_memory",
        edits=(("momentum_direction", "g.clone()", "g"),),
    ),
    Bug(
        name="weight-decay-grows", title="Weight decay has the wrong sign",
        story="g − λ w instead of g + λ w.",
        symptom="Weights grow instead of shrinking; with a small λ nobody notices.",
        seen_by=("side by side",), check="diy.test_diy.test_sgd_takes_pytorchs_steps",
        edits=(("Optimizer.step", "g.add(w, alpha=self.weight_decay)", "g.add(w, alpha=-self.weight_decay)"),),
    ),
    Bug(
        name="adam-without-correction", title="Adam without bias correction",
        story="m and v start at 0 and need many steps to reach the size of what they average.",
        symptom="The first steps have the wrong size: with the usual betas, about three times too large.",
        seen_by=("side by side",), check="diy.test_convolution.test_adam_by_hand",
        edits=(("Adam.direction", "v.sqrt().div_(math.sqrt(1 - beta2**t))", "v.sqrt()"),
               ("Adam.direction", "d.div_(1 - beta1**t)", "d")),
    ),
    Bug(
        name="cosine-without-pi", title="The cosine schedule forgets π",
        story="cos(t / T) only falls from 1 to 0.54.",
        symptom="The learning rate ends at three quarters of its first value instead of 0.",
        seen_by=(), check="diy.test_diy.test_the_cosine_schedule_is_pytorchs",
        edits=(("CosineAnnealingLR.step", "(1 + math.cos(math.pi * t / T)) / (1 + math.cos(math.pi * (t - 1) / T))",
                "(1 + math.cos(t / T)) / (1 + math.cos((t - 1) / T))"),),
    ),
    # Convolutions
    Bug(
        name="kernel-not-turned", title="backward uses the kernel the wrong way round",
        story="What a window took from its place i, j must go back to that place. If you write backward as a second "
              "convolution, you must flip the kernel in both directions; here it is flipped once too often.",
        symptom="The last convolution learns; those before it get scrambled gradients.",
        seen_by=("finite differences", "autograd"),
        check="diy.test_convolution.test_the_input_gradient_is_a_correlation_with_the_flipped_kernel",
        edits=(("Conv2d.backward", "W.unbind(2)", "W.flip(2, 3).unbind(2)"),),
    ),
    Bug(
        name="padding-not-cropped", title="The gradient is cut out of the wrong place",
        story="Padding was added on all sides; here all of it is cut off at the bottom and the right.",
        symptom="Gradients of images are shifted by the padding.",
        seen_by=("finite differences", "autograd"), check="diy.test_convolution.test_padding_gets_no_gradient",
        edits=(("Conv2d.backward", "self.inside(framed, X.shape)",
                "framed[:, : X.shape[2], : X.shape[3]].permute(3, 0, 1, 2)"),),
    ),
    Bug(
        name="ties-counted-twice", title="Ties in pooling are counted twice",
        story="Every place that equals the maximum gets the whole gradient. Finite differences move one place at a "
              "time, and find each of these gradients to lie between the slopes on its two sides.",
        symptom="Gradients grow in flat parts of an image, such as a white background.",
        seen_by=(), check="diy.test_convolution.test_pooling_by_hand",
        edits=(("MaxPool2d.backward", "left -= here", "pass"),),
    ),
    Bug(
        name="pooling-over-zeros", title="MaxPool2d pads with 0 instead of −∞",
        story="A window at the border then has a maximum of at least 0, even if all its pixels are negative.",
        symptom="At the border, negative maxima are lost; after a ReLU, it makes no difference.",
        seen_by=("autograd",), check="diy.test_convolution.test_pooling_by_autograd",
        edits=(("MaxPool2d.forward", "-math.inf", "0.0"),),
    ),
    Bug(
        name="batch-statistics-in-eval", title="Batch normalization uses the batch in evaluation too",
        story="The code never looks at `self.training`.",
        symptom="The label of an image depends on the images beside it; a single image may have none.",
        seen_by=(), check="diy.test_convolution.test_batch_norm_needs_two_values_per_channel",
        edits=(("BatchNorm2d.forward", "self.training and M", "M"),
               ("BatchNorm2d.forward", "1 / max(1, M) if self.training else 0", "1 / max(1, M)"),
               ("BatchNorm2d._check", "self.training and X.numel() == self.num_features",
                "X.numel() == self.num_features")),
    ),
    Bug(
        name="statistics-taken-for-constants", title="The gradient of batch normalization treats μ and σ as constants",
        story="Every value of the batch changes both; the two means in the rule account for that.",
        symptom="Training works, but the gradients point slightly the wrong way.",
        seen_by=GRADIENTS, check="diy.test_convolution.test_batch_norm_by_autograd",
        edits=(("BatchNorm2d.forward", "1 / max(1, M) if self.training else 0", "0"),),
    ),
    # Around the framework
    Bug(
        name="shuffled-without-targets", title="The inputs are shuffled, the targets are not",
        story="The new order is applied to only one of the two tensors.",
        symptom="The network learns that half of the points are inside, and no more. The framework is innocent.",
        seen_by=("training",), check="bugs.test_planted_bugs.test_inputs_and_targets_are_shuffled_together",
        edits=(("train", "targets[order].split(batch_size)", "targets.split(batch_size)"),),
        file="experiments/circle.py",
    ),
]  # fmt: skip

BUGS: dict[str, Bug] = {bug.name: bug for bug in CATALOGUE}
