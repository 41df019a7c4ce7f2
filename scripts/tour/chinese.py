"""The words of the article's tables in Chinese: every cell is that of the English article, with the same numbers."""

import re

NUMBER = re.compile(r"(?<![\w:−.,])(?:-?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?|nan\b)")  # not those in z_t−1 or x_1:48
SEPARATORS = {": ": "：", "; ": "；"}
# A phrase between separators, {} for each of its numbers, and the same in Chinese with the numbers in the same order.
PHRASES = {
    "measured": "量",
    "nats, unless it says otherwise": "nat（另有注明者除外）",
    "less than {}": "小于 {}",
    "yes": "是",
    "no": "否",
    "none": "无",
    "error": "误差",
    "mean": "均值",
    "width": "宽度",
    "gap": "间隙",
    "log p(x)": "log p(x)",
    "ELBO": "ELBO",
    "IWAE": "IWAE",
    "SMC": "SMC",
    "EM": "EM",
    # the evidence, the two KLs
    "log p(x = {}), one latent": "log p(x = {})，一个隐变量",
    "the blue area, summed on the grid": "蓝色面积，在网格上求和",
    "ten latents": "十个隐变量",
    "from the prior, {} samples, median": "从先验抽 {} 个样本，中位数",
    "from the posterior, {} samples": "从后验抽 {} 个样本",
    "the q drawn": "图中的 q",
    "q = the posterior": "q = 后验",
    r"E log p(x \| z)": r"E log p(x \| z)",
    r"KL(q \|\| p(z)), the KL in the ELBO": r"KL(q \|\| p(z))，ELBO 里的 KL",
    r"KL(q \|\| p(z \| x)), the gap": r"KL(q \|\| p(z \| x))，间隙",
    "log p(x) − ELBO − gap, largest over the path": "log p(x) − ELBO − 间隙，整条路径上的最大值",
    # EM, and models of one row
    "evidence per point at the start": "起点处每个数据点的证据",
    "after {} steps": "{} 次迭代之后",
    "after {} EM steps": "{} 次 EM 迭代之后",
    "of the model that made the data": "生成数据的模型的证据",
    "the model that made the data": "生成数据的模型",
    "largest gap after an M-step": "M 步之后的最大间隙",
    "largest gap after an E-step": "E 步之后的最大间隙",
    "the ELBO ever fell": "ELBO 是否下降过",
    "the evidence ever fell": "证据是否下降过",
    "probabilistic PCA, closed form": "概率 PCA，闭式解",
    "probabilistic PCA, {} EM steps": "概率 PCA，{} 次 EM 迭代",
    "factor analysis, {} EM steps": "因子分析，{} 次 EM 迭代",
    "log p(x), exact by quadrature": "log p(x)，由数值积分精确求得",
    "widest of {} points, the star": "{} 个点中的最大值，即图中的星",
    "importance-weighted bound, {} samples": "重要性加权下界，{} 个样本",
    # models of many rows
    "log p(x_1:48)": "log p(x_1:48)",
    r"ELBO, q = p(z_t \| z_t−1, x_t)": r"ELBO，q = p(z_t \| z_t−1, x_t)",
    r"its KL(q(z_1:T) \|\| p(z_1:T \| x_1:T))": r"它的 KL(q(z_1:T) \|\| p(z_1:T \| x_1:T))",
    "gap with q = the exact posterior": "q 取精确后验时的间隙",
    "{} rows": "{} 步",
    "forward − all {} paths": "前向算法 − 枚举全部 {} 条路径",
    "log p(x_1:60), Kalman filter": "log p(x_1:60)，卡尔曼滤波",
    r"ELBO, p(z_t \| z_t−1, x_t)": r"ELBO，p(z_t \| z_t−1, x_t)",
    "ELBO, best filter": "ELBO，最优滤波",
    "ELBO, smoother": "ELBO，平滑",
    "gap of the smoother": "平滑的间隙",
    "EM from a wrong model, {} steps": "从错误的模型出发做 {} 次 EM 迭代",
    "rise of the evidence, nats per row": "证据的升幅，nat/步",
    "ratio {}": "噪声比 {}",
    "gap of the best filter per row, closed form": "最优滤波每步的间隙，闭式解",
    "the same from exact bounds of simulated rows": "同上，由模拟数据上的精确下界求得",
    r"gap of p(z_t \| z_t−1, x_t)": r"p(z_t \| z_t−1, x_t) 的间隙",
    "latents that leave the decoder a tenth of the noise": "只给解码器留下十分之一噪声的隐变量",
    "their rate": "其码率",
    "rate of the physical latents": "物理隐变量的码率",
    # estimators
    "ELBO − truth": "ELBO − 真值",
    "IWAE − truth, {} samples": "IWAE − 真值，{} 个样本",
    "SMC − truth, {} particles": "SMC − 真值，{} 个粒子",
    "IWAE, {} particles": "IWAE，{} 个粒子",
    "SMC, {} particles": "SMC，{} 个粒子",
    "variance of log p̂ at {} rows, nats²": "{} 步时 log p̂ 的方差，nat²",
    "truth − mean at {} rows": "{} 步时真值 − 均值",
    "averaged at every step, {} samples, less the truth": "逐步平均，{} 个样本，减去真值",
    "summed over time first, {} samples, less the truth": "先对时间求和，{} 个样本，减去真值",
    "SMC, {} samples, less the truth": "SMC，{} 个样本，减去真值",
    "ELBO less the truth": "ELBO 减去真值",
    "{} particles": "{} 个粒子",
    "lower − truth, nats per row": "下界 − 真值，nat/步",
    "upper − truth": "上界 − 真值",
    # the RSSM, and why its gap is not to be believed
    "exact evidence per row": "每步的精确证据",
    "gap of the posterior, SMC − ELBO": "后验的间隙，SMC − ELBO",
    "what the model has not learned, exact − SMC": "模型没有学到的部分，精确值 − SMC",
    "width of the sandwich, {} particles": "夹逼的宽度，{} 个粒子",
    "doubts": "存疑之处",
    "fewer than {} particles are effective after {}% of the steps (at most {}% may be so)": (
        "有效粒子少于 {} 个的时间步占 {}%（至多允许 {}%）"
    ),
    "the sandwich is {} ± {} nats per step wide": "夹逼的宽度为 {} ± {} nat/步",
    "beside a gap of {} neither its width nor the error of that may be more than {}": (
        "间隙为 {} 时，宽度及其误差都不得超过 {}"
    ),
    "SMC lies {} nats per step below the ELBO": "SMC 比 ELBO 低 {} nat/步",
    "more particles, or rarer resampling": "应增加粒子，或减少重采样",
    # the identity
    "mixture": "混合模型",
    "factor analysis": "因子分析",
    "random effects": "随机效应",
    "hidden Markov": "隐马尔可夫",
    "linear-Gaussian": "线性高斯",
    "RSSM, {} paths": "RSSM，{} 条路径",
    "ELBO + gap": "ELBO + 间隙",
    "largest difference": "最大差值",
}


def chinese(cell: str) -> str:
    """A cell of a table in Chinese, with the same numbers.

    Raises:
        ValueError: if a phrase of it is not in `PHRASES`.
    """
    parts = re.split(f"({'|'.join(SEPARATORS)})", cell)
    return "".join(SEPARATORS.get(part) or _phrase(part) for part in parts)


def _phrase(english: str) -> str:
    pattern = NUMBER.sub("{}", english)
    if not re.search("[A-Za-z]", pattern):
        return english  # nothing but numbers
    if pattern not in PHRASES:
        raise ValueError(f"cell: expected phrases of scripts/tour/chinese.py, got {pattern!r}")
    return PHRASES[pattern].format(*NUMBER.findall(english))
